#pragma once
// Time as an interface, so that every deadline in the service can be driven by a test.

#include <chrono>
#include <cstdint>

namespace echelon {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual int64_t NowUs() const = 0;       // monotonic, microseconds, arbitrary origin
  virtual int64_t WallUnixMs() const = 0;  // wall clock, for reports only
};

class SystemClock final : public Clock {
 public:
  int64_t NowUs() const override {
    using namespace std::chrono;
    return duration_cast<microseconds>(steady_clock::now().time_since_epoch()).count();
  }
  int64_t WallUnixMs() const override {
    using namespace std::chrono;
    return duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
  }
};

class ManualClock final : public Clock {
 public:
  int64_t NowUs() const override { return now_us_; }
  int64_t WallUnixMs() const override { return now_us_ / 1000; }
  void AdvanceUs(int64_t us) { now_us_ += us; }

 private:
  int64_t now_us_ = 1;
};

}  // namespace echelon
