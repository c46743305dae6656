#pragma once
// Attender: what one thread does of an attention op. A unit is a block of rows of one sequence, the
// query heads of one KV head, and a range of splits: all its query vectors pass over a split's keys
// and values while these lie in the second-level cache. One thread; scratch memory stays.

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/kv_cache.h"

namespace echelon::cpu {

struct AttentionUnit {
  int32_t row_begin, row_end;  // rows of the step, all of one sequence
  int32_t kv_head;             // of this rank
  int32_t split_begin, split_end;
  // Splits are left as they are in the rows' partials; else merged and written to the output.
  bool partial;
  int64_t cost;  // (row, place) pairs
};

// The splits that a row leaves to be merged later.
struct RowPartials {
  float* slots = nullptr;  // (splits, H) slots from the row's first split on, or null: none
};

// An op as all its threads see it.
struct AttentionJob {
  const AttentionArgs& args;
  const CpuKernels& kernels;
  const CpuKvCache& cache;
  const std::vector<RowPartials>& partials;  // (T)

  int slot_floats() const { return cache.tile().stride() + kSlotExtra; }
  // The places of its list of pages that a row sees: [FirstPosition, EndPosition).
  int32_t FirstPosition(int64_t row) const;
  int32_t EndPosition(int64_t row) const;
  // Whether earlier calls left a state of the row that this one continues.
  bool Resumes(int64_t row) const { return !args.begin.empty() && args.begin[row] < 0; }
  float* PartialOf(int64_t row, int head) const {
    return args.partials.row(row) + int64_t{head} * (args.head_dim + kSlotExtra);
  }
  // The splits with places that the row sees: [first, second).
  std::pair<int32_t, int32_t> SplitsOf(int64_t row) const;
};

class Attender {
 public:
  // `next` is what this thread runs after it, or null.
  void Run(const AttentionJob& job, const AttentionUnit& unit, const AttentionUnit* next);
  // Merges the partials of heads [head_begin, head_end) of a row, at most kHeadsAtOnce, splits
  // ascending, and writes the output.
  static constexpr int kHeadsAtOnce = 16;
  void Merge(const AttentionJob& job, int64_t row, int head_begin, int head_end);

 private:
  // One unit being run.
  struct Vectors {
    int head_begin = 0, heads = 0;  // local query heads
    int count = 0;                  // rows * heads
  };
  void Pack(const AttentionJob& job, const AttentionUnit& unit, const Vectors& vectors);
  void FindTiles(const AttentionJob& job, const AttentionUnit& unit, int32_t split,
                 SplitArgs& args);
  // The keys of the split that comes after the one at hand, in the order in which they are read.
  void FindAhead(const AttentionJob& job, const AttentionUnit& unit, int32_t split,
                 SplitArgs& args);
  KvTile Gather(const AttentionJob& job, const AttentionUnit& unit, int32_t position, int tile,
                int count);
  void AttendTile(const AttentionJob& job, const AttentionUnit& unit, const Vectors& vectors,
                  int32_t split, int first, SplitArgs& args);

  std::vector<std::byte> queries_;  // (vectors) packed
  std::vector<float> states_;       // (vectors) slots: all splits so far
  std::vector<float> later_;        // (kQueriesAtOnce) slots: the split at hand
  std::vector<std::byte> gathered_;
};

}  // namespace echelon::cpu
