#pragma once
// Interrupts: SIGINT, SIGTERM and SIGHUP as something to ask for instead of something that happens.
// Made once, before any thread: they are blocked from then on in this and every later thread.

namespace echelon {

class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  // Takes all that are pending; true when there was one.
  bool Take();
  // Readable when one is pending.
  int fd() const { return fd_; }

 private:
  int fd_ = -1;
};

}  // namespace echelon
