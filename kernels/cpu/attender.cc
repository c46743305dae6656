#include "kernels/cpu/attender.h"

#include <algorithm>

namespace echelon::cpu {

namespace {
// The state that earlier calls left of a row's head.
void Resume(const AttentionJob& job, int64_t row, int head, float* slot) {
  const int head_dim = job.args.head_dim, stride = job.cache.tile().stride();
  const float* partial = job.PartialOf(row, head);
  std::copy_n(partial, head_dim, slot);
  std::fill(slot + head_dim, slot + stride, 0.0f);
  std::copy_n(partial + head_dim, kSlotExtra, slot + stride);
}

void Write(const AttentionJob& job, int64_t row, int head, const float* slot) {
  const int head_dim = job.args.head_dim;
  if (!job.args.begin.empty()) {
    float* partial = job.PartialOf(row, head);
    std::copy_n(slot, head_dim, partial);
    std::copy_n(slot + job.cache.tile().stride(), kSlotExtra, partial + head_dim);
    return;
  }
  float* out = job.args.out.row(row) + int64_t{head} * head_dim;
  const float total = slot[job.cache.tile().stride() + 1];
  for (int i = 0; i < head_dim; ++i) out[i] = slot[i] / total;
}
}  // namespace

int32_t AttentionJob::FirstPosition(int64_t row) const {
  if (!args.begin.empty()) return std::max(0, args.begin[row]);
  return args.window > 0 ? std::max(0, args.rows.positions[row] - args.window + 1) : 0;
}

int32_t AttentionJob::EndPosition(int64_t row) const {
  return args.begin.empty() ? args.rows.positions[row] + 1 : args.end[row];
}

std::pair<int32_t, int32_t> AttentionJob::SplitsOf(int64_t row) const {
  const int32_t first = FirstPosition(row), end = EndPosition(row);
  const int32_t begin = first / kAttentionSplit;
  return {begin, end > first ? (end - 1) / kAttentionSplit + 1 : begin};
}

void Attender::Run(const AttentionJob& job, const AttentionUnit& unit, const AttentionUnit* next) {
  const AttentionArgs& args = job.args;
  // Local query heads h with (head_begin + h) / group - kv_begin == kv_head.
  const int lowest = (unit.kv_head + args.kv_begin) * args.group - args.head_begin;
  Vectors vectors;
  vectors.head_begin = std::max(0, lowest);
  vectors.heads = std::min(args.heads, lowest + args.group) - vectors.head_begin;
  vectors.count = (unit.row_end - unit.row_begin) * vectors.heads;
  Pack(job, unit, vectors);
  if (!unit.partial) {
    states_.resize(static_cast<size_t>(vectors.count) * job.slot_floats());
    later_.resize(static_cast<size_t>(kQueriesAtOnce) * job.slot_floats());
  }
  for (int v = 0; v < vectors.count && !unit.partial; ++v) {
    const int64_t row = unit.row_begin + v / vectors.heads;
    if (!job.Resumes(row)) continue;
    Resume(job, row, vectors.head_begin + v % vectors.heads,
           states_.data() + int64_t{v} * job.slot_floats());
  }
  SplitArgs split_args;
  split_args.shape = job.cache.tile();
  split_args.scale = args.scale;
  for (int32_t split = unit.split_begin; split < unit.split_end; ++split) {
    FindTiles(job, unit, split, split_args);
    std::fill_n(split_args.ahead, kSplitTiles, nullptr);
    if (vectors.count <= kFewQueries && split + 1 < unit.split_end) {
      FindAhead(job, unit, split + 1, split_args);
    } else if (vectors.count <= kFewQueries && next != nullptr) {
      FindAhead(job, *next, next->split_begin, split_args);
    }
    for (int first = 0; first < vectors.count; first += kQueriesAtOnce) {
      AttendTile(job, unit, vectors, split, first, split_args);
    }
  }
  for (int v = 0; v < vectors.count && !unit.partial; ++v) {
    Write(job, unit.row_begin + v / vectors.heads, vectors.head_begin + v % vectors.heads,
          states_.data() + int64_t{v} * job.slot_floats());
  }
}

void Attender::Pack(const AttentionJob& job, const AttentionUnit& unit, const Vectors& vectors) {
  const int head_dim = job.args.head_dim;
  const int64_t bytes = PackedQueryBytes(head_dim);
  queries_.resize(static_cast<size_t>(vectors.count * bytes));
  const float* queries[kQueriesAtOnce];
  for (int first = 0; first < vectors.count; first += kQueriesAtOnce) {
    const int count = std::min(kQueriesAtOnce, vectors.count - first);
    for (int i = 0; i < count; ++i) {
      const int v = first + i, head = vectors.head_begin + v % vectors.heads;
      queries[i] = job.args.q.row(unit.row_begin + v / vectors.heads) + int64_t{head} * head_dim;
    }
    job.kernels.pack_queries(job.cache.tile(), queries, count, queries_.data() + first * bytes);
  }
}

void Attender::AttendTile(const AttentionJob& job, const AttentionUnit& unit,
                          const Vectors& vectors, int32_t split, int first, SplitArgs& args) {
  const int slot = job.slot_floats();
  const int32_t base = split * kAttentionSplit;
  float* merged[kQueriesAtOnce];
  const float* later[kQueriesAtOnce];
  int merges = 0;
  bool any = false;
  args.count = std::min(kQueriesAtOnce, vectors.count - first);
  args.queries = queries_.data() + first * PackedQueryBytes(args.shape.head_dim);
  for (int i = 0; i < args.count; ++i) {
    const int v = first + i;
    const int64_t row = unit.row_begin + v / vectors.heads;
    const int32_t seen = job.FirstPosition(row);
    args.begins[i] = std::max(0, seen - base);
    args.ends[i] = std::min(kAttentionSplit, job.EndPosition(row) - base);
    if (args.begins[i] >= args.ends[i]) {
      args.begins[i] = args.ends[i] = 0;
      continue;
    }
    any = true;
    const int32_t first_split = seen / kAttentionSplit;
    if (unit.partial) {
      const int64_t at = int64_t{split - first_split} * job.args.heads + vectors.head_begin;
      args.slots[i] = job.partials[row].slots + (at + v % vectors.heads) * slot;
    } else if (split == first_split && !job.Resumes(row)) {
      args.slots[i] = states_.data() + int64_t{v} * slot;
    } else {
      args.slots[i] = later_.data() + int64_t{i} * slot;
      later[merges] = args.slots[i];
      merged[merges++] = states_.data() + int64_t{v} * slot;
    }
  }
  if (any) job.kernels.attend_split(args);
  if (merges > 0) job.kernels.merge_splits(merged, later, merges, args.shape.stride());
}

namespace {
// The places of a split that any row of the unit sees.
std::pair<int32_t, int32_t> SeenOf(const AttentionJob& job, const AttentionUnit& unit,
                                   int32_t split) {
  const int32_t base = split * kAttentionSplit;
  int32_t begin = base + kAttentionSplit, end = base;
  for (int32_t row = unit.row_begin; row < unit.row_end; ++row) {
    begin = std::min(begin, std::max(base, job.FirstPosition(row)));
    end = std::max(end, std::min(base + kAttentionSplit, job.EndPosition(row)));
  }
  return {begin, end};
}
}  // namespace

void Attender::FindTiles(const AttentionJob& job, const AttentionUnit& unit, int32_t split,
                         SplitArgs& args) {
  const BatchRows& rows = job.args.rows;
  const int page_tokens = job.cache.shape().page_tokens;
  const int32_t base = split * kAttentionSplit;
  const auto [begin, end] = SeenOf(job, unit, split);
  for (int tile = (begin - base) / kTilePositions; base + tile * kTilePositions < end; ++tile) {
    const int32_t position = base + tile * kTilePositions;
    if (page_tokens % kTilePositions == 0) {
      const int32_t page = job.cache.PageOf(rows, rows.sequences[unit.row_begin], position);
      const int slot = position % page_tokens;
      args.tiles[tile] = {job.cache.Keys(job.args.layer, page, unit.kv_head, slot),
                          job.cache.Values(job.args.layer, page, unit.kv_head, slot)};
    } else {
      args.tiles[tile] =
          Gather(job, unit, position, tile, std::min(kTilePositions, end - position));
    }
  }
}

void Attender::FindAhead(const AttentionJob& job, const AttentionUnit& unit, int32_t split,
                         SplitArgs& args) {
  const BatchRows& rows = job.args.rows;
  const int page_tokens = job.cache.shape().page_tokens;
  if (page_tokens % kTilePositions != 0) return;
  const int32_t base = split * kAttentionSplit;
  const auto [begin, end] = SeenOf(job, unit, split);
  int at = 0;
  for (int tile = (begin - base) / kTilePositions; base + tile * kTilePositions < end; ++tile) {
    const int32_t position = base + tile * kTilePositions;
    const int32_t page = job.cache.PageOf(rows, rows.sequences[unit.row_begin], position);
    args.ahead[at++] = job.cache.Keys(job.args.layer, page, unit.kv_head, position % page_tokens);
  }
}

// Pages of other sizes: the 16 positions are brought together, so that the sums are the same.
KvTile Attender::Gather(const AttentionJob& job, const AttentionUnit& unit, int32_t position,
                        int tile, int count) {
  const CpuKvCache& cache = job.cache;
  const KvTileShape& shape = cache.tile();
  const int64_t tile_bytes = shape.KeyBytes() + shape.ValueBytes();
  gathered_.resize(static_cast<size_t>(kSplitTiles * tile_bytes));
  std::byte* keys = gathered_.data() + tile * tile_bytes;
  std::byte* values = keys + shape.KeyBytes();
  for (int i = 0; i < count; ++i) {
    const int32_t page =
        cache.PageOf(job.args.rows, job.args.rows.sequences[unit.row_begin], position + i);
    const int slot = (position + i) % cache.shape().page_tokens, lane = slot % kTilePositions;
    CopyKey(shape, cache.Keys(job.args.layer, page, unit.kv_head, slot), lane, keys, i);
    CopyValue(shape, cache.Values(job.args.layer, page, unit.kv_head, slot), lane, values, i);
  }
  return {keys, values};
}

void Attender::Merge(const AttentionJob& job, int64_t row, int head_begin, int head_end) {
  const auto [begin, end] = job.SplitsOf(row);
  const int slot = job.slot_floats(), count = head_end - head_begin;
  const bool resumes = job.Resumes(row);
  float* firsts = job.partials[row].slots + int64_t{head_begin} * slot;
  states_.resize(std::max(states_.size(), static_cast<size_t>(kHeadsAtOnce * slot)));
  float* states[kHeadsAtOnce];
  const float* later[kHeadsAtOnce];
  for (int i = 0; i < count; ++i) {
    states[i] = (resumes ? states_.data() : firsts) + int64_t{i} * slot;
    if (resumes) Resume(job, row, head_begin + i, states[i]);
  }
  for (int32_t split = resumes ? begin : begin + 1; split < end; ++split) {
    const float* of_split = firsts + int64_t{split - begin} * job.args.heads * slot;
    for (int i = 0; i < count; ++i) later[i] = of_split + int64_t{i} * slot;
    job.kernels.merge_splits(states, later, count, job.cache.tile().stride());
  }
  for (int i = 0; i < count; ++i) Write(job, row, head_begin + i, states[i]);
}

}  // namespace echelon::cpu
