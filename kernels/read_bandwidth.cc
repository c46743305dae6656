#include "kernels/read_bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

#include "kernels/host_memory.h"

namespace echelon {

namespace {
constexpr int kPasses = 25;
// Handed out 128 KiB at a time: what hides the hand-out (100 ns) behind 5 us of reading.
constexpr int64_t kFloatsPerRange = 32768;
}  // namespace

double MeasureReadBandwidth(ThreadPool& pool, size_t bytes, SumFloats sum) {
  const int64_t ranges = std::max<int64_t>(1, static_cast<int64_t>(bytes) / 4 / kFloatsPerRange);
  const size_t block_bytes = static_cast<size_t>(ranges * kFloatsPerRange) * sizeof(float);
  const HostBlock block(block_bytes, /*zero=*/true);
  if (block.data() == nullptr) return 0.0;
  const auto* values = block.as<const float>();
  std::atomic<float> sink{0.0f};  // the sums must not be optimised away
  std::vector<double> rates;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto begin = std::chrono::steady_clock::now();
    pool.ParallelFor(ranges, 1, [&](int64_t from, int64_t to, int) {
      sink.store(sum(values + from * kFloatsPerRange, (to - from) * kFloatsPerRange),
                 std::memory_order_relaxed);
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    rates.push_back(static_cast<double>(block_bytes) / seconds.count());
  }
  std::nth_element(rates.begin(), rates.begin() + kPasses / 2, rates.end());
  return rates[kPasses / 2];
}

}  // namespace echelon
