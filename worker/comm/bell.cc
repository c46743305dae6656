#include "worker/comm/bell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>

namespace echelon {

uint32_t Bell::Arm() {
  const uint32_t armed = rings_.load();
  sleeping_.store(1);
  return armed;
}

void Bell::Sleep(uint32_t armed, int64_t timeout_ns) {
  const timespec timeout{timeout_ns / 1'000'000'000, timeout_ns % 1'000'000'000};
  // Not the private kind of futex: the ringer is another process.
  syscall(SYS_futex, &rings_, FUTEX_WAIT, armed, &timeout, nullptr, 0);
}

void Bell::Disarm() { sleeping_.store(0); }

void Bell::Ring() {
  if (sleeping_.load() == 0) return;
  rings_.fetch_add(1);
  syscall(SYS_futex, &rings_, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace echelon
