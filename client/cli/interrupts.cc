#include "client/cli/interrupts.h"

#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/check.h"

namespace echelon {

Interrupts::Interrupts() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, signal);
  CHECK(sigprocmask(SIG_BLOCK, &signals, nullptr) == 0);
  // A reader that closed our stdout must not end us before we ended our children.
  CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
  fd_ = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
  CHECK(fd_ >= 0);
}

Interrupts::~Interrupts() { close(fd_); }

bool Interrupts::Take() {
  signalfd_siginfo info;
  bool taken = false;
  while (read(fd_, &info, sizeof info) == sizeof info) taken = true;
  return taken;
}

}  // namespace echelon
