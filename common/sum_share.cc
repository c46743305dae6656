#include "common/sum_share.h"

namespace echelon {

namespace {
// On one host a rank's sum of everything costs it a write of the message and n - 1 reads, sharing
// it out a write and 2 (n - 1) / n reads, and a second hand-over of about a microsecond: pays from
// some thousand values on, and never for two ranks.
constexpr int64_t kEachBytesMax = 16 << 10;
}  // namespace

int64_t OneExchangeBytesMax(int hosts) {
  constexpr int64_t kLatencyTimesBandwidth = 64 << 10;
  if (hosts <= 2) return INT64_MAX;
  return kLatencyTimesBandwidth * hosts / (int64_t{hosts - 1} * (hosts - 2));
}

SumShare ShareOf(int hosts, int ranks_per_host_max, int64_t bytes) {
  if (bytes > OneExchangeBytesMax(hosts) / ranks_per_host_max) return SumShare::kGroup;
  if (ranks_per_host_max == 1) return SumShare::kEach;
  if (hosts > 1) return SumShare::kHost;
  return ranks_per_host_max == 2 || bytes <= kEachBytesMax ? SumShare::kEach : SumShare::kHost;
}

}  // namespace echelon
