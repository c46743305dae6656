// Attention of the CPU backend: cuts an op into units for the threads. Where rows are many enough
// to keep all threads busy a unit runs through all splits of its rows; else a unit is one split,
// left as a partial and merged when all are done. Both merge the same splits in the same order:
// same bits.

#include <algorithm>

#include "kernels/cpu/attender.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/kv_cache.h"
#include "kernels/shape_check.h"

namespace echelon::cpu {

namespace {
// Rows of a unit at most. A split's keys and values (64 KiB of 64 float16 elements each) then serve
// 32 rows, some 40 us of arithmetic, once they are in the second-level cache; the states of the
// rows (32 * 3 heads * 264 bytes) lie there too.
constexpr int kBlockRows = 32;
// As few as four where there are few rows, so that each thread gets this many units.
constexpr int64_t kUnitsPerThread = 8;

struct Block {
  int32_t row_begin, row_end;
  int32_t begin, end;  // places that the rows see
  int32_t split_begin() const { return begin / kAttentionSplit; }
  int32_t split_end() const { return (end - 1) / kAttentionSplit + 1; }
};

int RowsOfBlock(int64_t rows, int64_t kv_heads, int threads) {
  const int64_t even = rows * kv_heads / (kUnitsPerThread * threads);
  return static_cast<int>(std::clamp<int64_t>((even + 3) / 4 * 4, 4, kBlockRows));
}

// Neighbouring rows of one sequence, `rows_max` at most, that see places without a gap. Rows that
// see nothing are in no block.
std::vector<Block> CutBlocks(const AttentionJob& job, int rows_max) {
  std::vector<Block> blocks;
  const auto& sequences = job.args.rows.sequences;
  for (int32_t t = 0; t < job.args.q.rows; ++t) {
    const int32_t begin = job.FirstPosition(t), end = job.EndPosition(t);
    if (begin >= end) continue;
    const bool joins = !blocks.empty() && blocks.back().row_end == t &&
                       t - blocks.back().row_begin < rows_max && sequences[t] == sequences[t - 1] &&
                       begin <= blocks.back().end && blocks.back().begin <= end;
    if (!joins) blocks.push_back({t, t, begin, end});
    Block& block = blocks.back();
    block.row_end = t + 1;
    block.begin = std::min(block.begin, begin);
    block.end = std::max(block.end, end);
  }
  return blocks;
}

int64_t PairsOf(const AttentionJob& job, const Block& block, int32_t split_begin,
                int32_t split_end) {
  int64_t pairs = 0;
  for (int32_t t = block.row_begin; t < block.row_end; ++t) {
    const int32_t begin = std::max(job.FirstPosition(t), split_begin * kAttentionSplit);
    const int32_t end = std::min(job.EndPosition(t), split_end * kAttentionSplit);
    pairs += std::max(0, end - begin);
  }
  return pairs;
}
}  // namespace

void CpuBackend::PlanAttention(const AttentionJob& job) {
  const AttentionArgs& args = job.args;
  const int kv_first = args.head_begin / args.group - args.kv_begin;
  const int kv_last = (args.head_begin + args.heads - 1) / args.group - args.kv_begin;
  const int kv_heads = kv_last - kv_first + 1, threads = pool_.threads();
  const auto blocks = CutBlocks(job, RowsOfBlock(args.q.rows, kv_heads, threads));
  int64_t total = 0, longest = 0;
  for (const Block& block : blocks) {
    const int64_t pairs = PairsOf(job, block, block.split_begin(), block.split_end());
    total += pairs * kv_heads;
    longest = std::max(longest, pairs);
  }
  // Whole blocks as units when the longest is at most an eighth of a thread's share of the work.
  const bool whole = threads == 1 || longest * kUnitsPerThread * threads <= total;

  attention_units_.clear();
  partials_.assign(static_cast<size_t>(args.q.rows), {});
  std::vector<int64_t> slots_before(static_cast<size_t>(args.q.rows), -1);
  int64_t slots = 0;
  for (const Block& block : blocks) {
    const bool partial = !whole && block.split_end() - block.split_begin() > 1;
    for (int32_t t = block.row_begin; partial && t < block.row_end; ++t) {
      const auto [begin, end] = job.SplitsOf(t);
      slots_before[t] = slots;
      slots += int64_t{end - begin} * args.heads;
    }
    const int32_t step = partial ? 1 : block.split_end() - block.split_begin();
    for (int32_t split = block.split_begin(); split < block.split_end(); split += step) {
      const int64_t pairs = PairsOf(job, block, split, split + step);
      for (int kv = kv_first; kv <= kv_last; ++kv) {
        attention_units_.push_back(
            {block.row_begin, block.row_end, kv, split, split + step, partial, pairs});
      }
    }
  }
  partial_slots_.resize(
      std::max(partial_slots_.size(), static_cast<size_t>(slots * job.slot_floats())));
  for (int64_t t = 0; t < args.q.rows; ++t) {
    if (slots_before[t] < 0) continue;
    partials_[t].slots = partial_slots_.data() + slots_before[t] * job.slot_floats();
  }
  // The longest first: what is left over at the end, for one thread alone, is short.
  std::stable_sort(attention_units_.begin(), attention_units_.end(),
                   [](const auto& a, const auto& b) { return a.cost > b.cost; });
}

void CpuBackend::Attention(const AttentionArgs& args) {
  CheckAttention(args);
  if (args.heads == 0 || args.q.rows == 0) return;
  const AttentionJob job = {args, kernels_, static_cast<const CpuKvCache&>(*args.cache), partials_};
  PlanAttention(job);
  attenders_.resize(pool_.threads());
  const auto units = static_cast<int64_t>(attention_units_.size());
  const int64_t grain = std::clamp<int64_t>(units / (pool_.threads() * 64), 1, 16);
  pool_.ParallelFor(units, grain, [&](int64_t begin, int64_t end, int thread) {
    const bool own = begin >= pool_.RegionBegin(units, grain, thread);
    const int64_t goes_on_to = own ? pool_.RegionBegin(units, grain, thread + 1) : end;
    for (int64_t i = begin; i < end; ++i) {
      const bool more = i + 1 < end || i + 1 < goes_on_to;  // for this thread
      attenders_[thread].Run(job, attention_units_[i], more ? &attention_units_[i + 1] : nullptr);
    }
  });
  const bool any_partial =
      std::ranges::any_of(partials_, [](const RowPartials& row) { return row.slots != nullptr; });
  if (!any_partial) return;
  // A long row's merge is some microseconds: its heads are shared out, several to a call.
  const int heads =
      std::min((args.heads + pool_.threads() - 1) / pool_.threads(), Attender::kHeadsAtOnce);
  const int pieces = (args.heads + heads - 1) / heads;
  pool_.ParallelFor(args.q.rows * pieces, 1, [&](int64_t piece, int64_t, int thread) {
    const int64_t row = piece / pieces;
    const int first = static_cast<int>(piece % pieces) * heads;
    if (partials_[row].slots == nullptr) return;
    attenders_[thread].Merge(job, row, first, std::min(first + heads, args.heads));
  });
}

}  // namespace echelon::cpu
