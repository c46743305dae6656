#include "common/step_buffers.h"

#include <algorithm>
#include <numeric>

#include "common/block_schedule.h"
#include "common/step_rules.h"

namespace echelon {

int64_t RankRowsMax(const StepBounds& b) {
  const int64_t fresh = b.sequences_max * b.page_tokens;  // a page of every sequence
  if (b.sp == 1 || b.step_tokens_max <= fresh) return b.step_tokens_max;
  const int64_t rest = b.step_tokens_max - fresh, round = b.page_tokens * b.sp;
  const int64_t last = std::max<int64_t>(0, rest % round - (round - b.page_tokens));
  // One more: a step may be cut in two, and a single row at the cut is then every rank's.
  return std::min(b.step_tokens_max, fresh + rest / round * b.page_tokens + last + 1);
}

int64_t LogitRows(const RankPart& part, const RowTiles& tiles) {
  // On hosts 64 rows of a vocabulary of 65,536, 16 of one of 262,144. Fewer than 8 and the head
  // would be read from memory more often than the multiply-adds of a row take.
  constexpr int64_t kRowsMin = 8, kRowsMax = 64;
  const int64_t row_bytes = std::max(1, part.vocab_max) * int64_t{sizeof(float)};
  return std::clamp(tiles.logit_bytes_max / row_bytes, kRowsMin, kRowsMax);
}

DecoderBuffers DecoderBuffersOf(const ModelConfig& model, const RankPart& part, int64_t rows_max,
                                const RowTiles& tiles) {
  const StageSchedule schedule = StageScheduleOf(model, part.layers.begin, part.layers.end);
  int in_flight_max = static_cast<int>(schedule.entering.size());
  for (const SubBlockStep& step : schedule.steps) {
    in_flight_max = std::max(in_flight_max, step.in_flight_max);
  }
  const int64_t d = model.d_model, head_dim = model.head_dim;
  DecoderBuffers b;
  b.streams = part.last_stage ? 1 : 2;
  b.outputs = in_flight_max + 1;
  b.stream = {rows_max, d};
  b.qkv = {rows_max, (part.heads() + 2 * part.kv_heads()) * head_dim};
  b.context = {rows_max, part.heads() * head_dim};
  b.gate_up = {std::min(rows_max, tiles.mlp_rows_max), int64_t{2} * part.ff()};
  if (!part.last_stage) return b;
  b.head_stream = {LogitRows(part, tiles), d};
  b.logits = {LogitRows(part, tiles), part.vocab()};
  return b;
}

int64_t DecoderBuffers::bytes() const {
  return (streams * (1 + outputs) + 2) * stream.bytes() + qkv.bytes() + context.bytes() +
         gate_up.bytes() + 2 * head_stream.bytes() + logits.bytes();
}

SharingBuffers SharingBuffersOf(const ModelConfig& model, const RankPart& part,
                                const StepBounds& bounds) {
  const int64_t query = int64_t{part.heads()} * model.head_dim;
  const int64_t partial = int64_t{part.heads()} * (model.head_dim + 2);
  const int64_t all = bounds.step_tokens_max, own = RankRowsMax(bounds);
  SharingBuffers b;
  b.queries = {own, query};
  b.foreign_queries = {all, query};
  b.foreign_partials = {all, partial};
  b.copied_partials = {kCopiedRowsMax, partial};
  b.partials = {bounds.sp * own + kCopiedRowsMax, partial};
  if (part.last_stage) b.collected = {LogitRows(part, bounds.tiles), model.d_model};
  return b;
}

int64_t SharingBuffers::bytes() const {
  return 2 * queries.bytes() + foreign_queries.bytes() + foreign_partials.bytes() +
         copied_partials.bytes() + partials.bytes() + collected.bytes();
}

int64_t StepBufferBytes(const ModelConfig& model, const RankPart& part, const StepBounds& bounds) {
  const int64_t bytes = DecoderBuffersOf(model, part, RankRowsMax(bounds), bounds.tiles).bytes();
  return bounds.sp > 1 ? bytes + SharingBuffersOf(model, part, bounds).bytes() : bytes;
}

int RingPages(int sp, int page_tokens, int tokens, int64_t context_max) {
  const int64_t split = std::lcm(kRingSplit, page_tokens) / page_tokens;
  const auto whole = [&](int64_t pages) { return (pages + split - 1) / split * split; };
  const int64_t context_pages = (context_max + page_tokens - 1) / page_tokens;
  const int64_t useful = whole((context_pages + sp - 1) / sp);
  return static_cast<int>(std::min(whole(std::max(1, tokens / page_tokens)), useful));
}

}  // namespace echelon
