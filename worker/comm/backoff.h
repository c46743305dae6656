#pragma once
// Backoff: how a thread waits for something that only polling can see. It spins while the answer is
// a message latency away, yields while another rank on the same core may be computing it, and then
// sleeps for a sixteenth of the time waited so far: waiting adds at most 6 % to a delay, and an
// idle rank wakes 250 times a second (250 polls of some 10 us = 0.3 % of a core).

#include <cstdint>

namespace echelon {

class Backoff {
 public:
  Backoff();
  void Pause();  // call after each poll that found nothing

 private:
  int64_t begin_ns_;
};

}  // namespace echelon
