#pragma once
// Health: what /healthz and /readyz answer, handed from the coordinator's thread to the HTTP
// server's. Statements expire by themselves: a state machine that hangs stops being healthy.

#include <cstdint>
#include <mutex>
#include <string>

namespace echelon {

struct HealthReport {
  int64_t alive_until_us = 0;  // Clock::NowUs up to which the process counts as alive
  int64_t ready_until_us = 0;  // ... and a token was produced end to end lately; 0 = not ready
  std::string reason;          // why not ready, for people
};

class Health {
 public:
  void Set(HealthReport report) {
    const std::lock_guard lock(mutex_);
    report_ = std::move(report);
  }
  HealthReport Get() const {
    const std::lock_guard lock(mutex_);
    return report_;
  }

 private:
  mutable std::mutex mutex_;
  HealthReport report_;  // guarded by mutex_
};

}  // namespace echelon
