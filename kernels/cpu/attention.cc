// Attention of the CPU backend. The unit of work is (row, KV head, split) or, where there are rows
// enough to keep all threads busy, (row, KV head) with its splits one after the other. Both merge
// the same splits in the same order: same bits.

#include <algorithm>
#include <cstring>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/kv_cache.h"
#include "kernels/shape_check.h"

namespace echelon::cpu {

namespace {
struct Unit {
  int32_t row;
  int32_t kv_head;
  int32_t split_begin, split_end;
  float* partials;  // null: merge at once and write the output
};

// What one split leaves of one head: value_stride sums, then best and total.
constexpr int kExtra = 2;

// One thread's view of the op.
class Attender {
 public:
  Attender(const AttentionArgs& args, const CpuKernels& kernels)
      : args_(args),
        kernels_(kernels),
        cache_(static_cast<const CpuKvCache&>(*args.cache)),
        stride_(cache_.value_stride()),
        slot_(stride_ + kExtra),
        state_(static_cast<size_t>(2 * kHeadsAtOnce) * slot_) {}

  // The places of its list of pages that a row sees.
  int32_t FirstPosition(int64_t row) const {
    if (!args_.begin.empty()) return std::max(0, args_.begin[row]);
    return args_.window > 0 ? std::max(0, args_.rows.positions[row] - args_.window + 1) : 0;
  }

  int32_t EndPosition(int64_t row) const {
    return args_.begin.empty() ? args_.rows.positions[row] + 1 : args_.end[row];
  }

  void Run(const Unit& unit) {
    // Local query heads h with (head_begin + h) / group - kv_begin == kv_head.
    const int lowest = (unit.kv_head + args_.kv_begin) * args_.group - args_.head_begin;
    const int begin = std::max(0, lowest), end = std::min(args_.heads, lowest + args_.group);
    for (int h = begin; h < end; h += kHeadsAtOnce) {
      RunHeads(unit, h, std::min(end - h, kHeadsAtOnce));
    }
  }

  // Merges `count` partials of one head, `pitch` floats apart, and writes the output.
  void Merge(int64_t row, int head, const float* partials, int64_t pitch, int count) {
    float* state = state_.data();
    int next = 0;
    if (!Resume(row, head, state)) std::copy_n(partials + pitch * next++, slot_, state);
    for (; next < count; ++next) MergeInto(state, partials + next * pitch);
    Write(row, head, state);
  }

  int slot() const { return slot_; }

 private:
  void RunHeads(const Unit& unit, int head, int heads) {
    for (int32_t split = unit.split_begin; split < unit.split_end; ++split) {
      bool first = split == unit.split_begin;
      if (first && unit.partials == nullptr) {
        for (int h = 0; h < heads; ++h) {
          if (Resume(unit.row, head + h, state_.data() + h * slot_)) first = false;
        }
      }
      float* slots = unit.partials != nullptr ? unit.partials + int64_t{head} * slot_
                     : first                  ? state_.data()
                                              : state_.data() + kHeadsAtOnce * slot_;
      AttendSplit(unit, split, head, heads, slots);
      if (unit.partials != nullptr || first) continue;
      for (int h = 0; h < heads; ++h) MergeInto(state_.data() + h * slot_, slots + h * slot_);
    }
    if (unit.partials != nullptr) return;
    for (int h = 0; h < heads; ++h) Write(unit.row, head + h, state_.data() + h * slot_);
  }

  void AttendSplit(const Unit& unit, int32_t split, int head, int heads, float* slots) {
    const int32_t base = split * kAttentionSplit;
    SplitArgs split_args;
    split_args.type = cache_.shape().type;
    split_args.value_stride = stride_;
    split_args.head_dim = args_.head_dim;
    split_args.begin = std::max(0, FirstPosition(unit.row) - base);
    split_args.end = std::min(kAttentionSplit, EndPosition(unit.row) - base);
    split_args.scale = args_.scale;
    split_args.heads = heads;
    for (int h = 0; h < heads; ++h) {
      split_args.q[h] = args_.q.row(unit.row) + int64_t{head + h} * args_.head_dim;
      split_args.sums[h] = slots + int64_t{h} * slot_;
    }
    FindTiles(unit, base, split_args);
    kernels_.attend_split(split_args);
    for (int h = 0; h < heads; ++h) {
      slots[int64_t{h} * slot_ + stride_] = split_args.best[h];
      slots[int64_t{h} * slot_ + stride_ + 1] = split_args.total[h];
    }
  }

  void FindTiles(const Unit& unit, int32_t base, SplitArgs& split_args) {
    const int32_t sequence = args_.rows.sequences[unit.row];
    const int page_tokens = cache_.shape().page_tokens;
    for (int tile = split_args.begin / 16; tile < (split_args.end + 15) / 16; ++tile) {
      const int32_t position = base + 16 * tile;
      if (page_tokens % kTilePositions == 0) {
        const int32_t page = cache_.PageOf(args_.rows, sequence, position);
        const int slot = position % page_tokens;
        split_args.tiles[tile] = {cache_.KeyLane(args_.layer, page, unit.kv_head, slot),
                                  cache_.ValueRow(args_.layer, page, unit.kv_head, slot)};
      } else {
        const int count = std::min(16, split_args.end - 16 * tile);
        split_args.tiles[tile] = Gather(unit, sequence, position, tile, count);
      }
    }
  }

  // Pages of other sizes: the 16 positions are brought together, so that the sums are the same.
  KvTile Gather(const Unit& unit, int32_t sequence, int32_t position, int tile, int count) {
    const int64_t size = cache_.element_bytes();
    const int64_t key_bytes = args_.head_dim * kTilePositions * size;
    const int64_t tile_bytes = key_bytes + kTilePositions * stride_ * size;
    gathered_.resize(static_cast<size_t>(kSplitTiles * tile_bytes));
    std::byte* keys = gathered_.data() + tile * tile_bytes;
    std::byte* values = keys + key_bytes;
    for (int i = 0; i < count; ++i) {
      const int32_t page = cache_.PageOf(args_.rows, sequence, position + i);
      const int slot = (position + i) % cache_.shape().page_tokens;
      const std::byte* lane = cache_.KeyLane(args_.layer, page, unit.kv_head, slot);
      for (int d = 0; d < args_.head_dim; ++d) {
        std::memcpy(keys + (d * kTilePositions + i) * size, lane + d * kTilePositions * size,
                    static_cast<size_t>(size));
      }
      std::memcpy(values + i * stride_ * size,
                  cache_.ValueRow(args_.layer, page, unit.kv_head, slot),
                  static_cast<size_t>(stride_ * size));
    }
    return {keys, values};
  }

  void MergeInto(float* state, const float* later) {
    kernels_.merge_split(state, state + stride_, state + stride_ + 1, later, later[stride_],
                         later[stride_ + 1], stride_);
  }

  // The state that earlier calls left of the row; false: it begins in this one.
  bool Resume(int64_t row, int head, float* state) const {
    if (args_.begin.empty() || args_.begin[row] >= 0) return false;
    const float* partial = PartialOf(row, head);
    std::copy_n(partial, args_.head_dim, state);
    std::fill(state + args_.head_dim, state + stride_, 0.0f);
    std::copy_n(partial + args_.head_dim, kExtra, state + stride_);
    return true;
  }

  float* PartialOf(int64_t row, int head) const {
    return args_.partials.row(row) + int64_t{head} * (args_.head_dim + kExtra);
  }

  void Write(int64_t row, int head, const float* state) {
    if (!args_.begin.empty()) {
      float* partial = PartialOf(row, head);
      std::copy_n(state, args_.head_dim, partial);
      std::copy_n(state + stride_, kExtra, partial + args_.head_dim);
      return;
    }
    float* out = args_.out.row(row) + int64_t{head} * args_.head_dim;
    for (int i = 0; i < args_.head_dim; ++i) out[i] = state[i] / state[stride_ + 1];
  }

  const AttentionArgs& args_;
  const CpuKernels& kernels_;
  const CpuKvCache& cache_;
  int stride_;
  int slot_;
  std::vector<float> state_;  // kHeadsAtOnce merged heads, kHeadsAtOnce of the next split
  std::vector<std::byte> gathered_;
};

struct Plan {
  std::vector<Unit> units;
  std::vector<int64_t> partial_begin;  // (T) slots before the row's, or -1 where it has none
};
}  // namespace

void CpuBackend::Attention(const AttentionArgs& args) {
  CheckAttention(args);
  if (args.heads == 0 || args.q.rows == 0) return;
  const int kv_first = args.head_begin / args.group - args.kv_begin;
  const int kv_last = (args.head_begin + args.heads - 1) / args.group - args.kv_begin;
  std::vector<Attender> attenders;
  for (int i = 0; i < pool_.threads(); ++i) attenders.emplace_back(args, kernels_);

  const auto splits_of = [&](int64_t t) {
    const int32_t first = attenders[0].FirstPosition(t), end = attenders[0].EndPosition(t);
    const int32_t begin = first / kAttentionSplit;
    return std::pair(begin, end > first ? (end - 1) / kAttentionSplit + 1 : begin);
  };
  int64_t total = 0, longest = 0;
  for (int64_t t = 0; t < args.q.rows; ++t) {
    const auto [begin, end] = splits_of(t);
    total += end - begin;
    longest = std::max<int64_t>(longest, end - begin);
  }
  // Whole rows as units when the longest is at most an eighth of a thread's share of the work.
  const bool whole_rows = pool_.threads() == 1 || longest == 1 ||
                          longest * 8 * pool_.threads() <= total * (kv_last - kv_first + 1);

  Plan plan;
  plan.partial_begin.assign(static_cast<size_t>(args.q.rows), -1);
  const int64_t slot = attenders[0].slot();
  int64_t slots = 0;
  for (int64_t t = 0; t < args.q.rows && !whole_rows; ++t) {
    const auto [begin, end] = splits_of(t);
    if (end - begin <= 1) continue;
    plan.partial_begin[t] = slots;
    slots += int64_t{end - begin} * args.heads;
  }
  if (static_cast<int64_t>(partials_.size()) < slots * slot) partials_.resize(slots * slot);
  for (int64_t t = 0; t < args.q.rows; ++t) {
    const auto [begin, end] = splits_of(t);
    for (int kv = kv_first; kv <= kv_last && begin < end; ++kv) {
      if (plan.partial_begin[t] < 0) {
        plan.units.push_back({static_cast<int32_t>(t), kv, begin, end, nullptr});
        continue;
      }
      for (int32_t split = begin; split < end; ++split) {
        float* at =
            partials_.data() + (plan.partial_begin[t] + int64_t{split - begin} * args.heads) * slot;
        plan.units.push_back({static_cast<int32_t>(t), kv, split, split + 1, at});
      }
    }
  }

  const auto units = static_cast<int64_t>(plan.units.size());
  const int64_t grain = std::clamp<int64_t>(units / (pool_.threads() * 16), 1, 16);
  pool_.ParallelFor(units, grain, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) attenders[thread].Run(plan.units[i]);
  });
  if (slots == 0) return;
  pool_.ParallelFor(args.q.rows * args.heads, args.heads, [&](int64_t from, int64_t, int thread) {
    const int64_t t = from / args.heads;
    if (plan.partial_begin[t] < 0) return;
    const auto [begin, end] = splits_of(t);
    for (int h = 0; h < args.heads; ++h) {
      attenders[thread].Merge(t, h, partials_.data() + (plan.partial_begin[t] + h) * slot,
                              args.heads * slot, end - begin);
    }
  });
}

}  // namespace echelon::cpu
