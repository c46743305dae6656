#include "common/planner/memory.h"

#include <algorithm>

#include "common/block_schedule.h"
#include "common/rank_part.h"
#include "common/shard_elements.h"
#include "common/tensor_shards.h"

namespace echelon {

namespace {

constexpr int64_t kLogitRows = 64;  // the decoder makes logits of so many rows at once

uint64_t KvBytes(const ModelConfig& model, const ParallelLayout& layout, const RankPart& part,
                 const Workload& w) {
  const int64_t pages = (w.context + w.page_tokens - 1) / w.page_tokens;
  const int64_t own = (pages + layout.sp - 1) / layout.sp;  // page p lies on rank p mod sp
  const double values = 2.0 * part.n_layers() * part.kv_heads() * model.head_dim;
  return static_cast<uint64_t>(values * w.kv_value_bytes) * own * w.page_tokens * w.streams;
}

// Decoder::Allocate's buffers, float32: two streams of residual and outputs, and the scratch.
uint64_t ActivationBytes(const ModelConfig& model, const RankPart& part, const Workload& w) {
  int in_flight = 0;
  for (const SubBlockStep& step : MakeSchedule(model).steps) {
    in_flight = std::max(in_flight, step.in_flight_max);
  }
  const int64_t d = model.d_model, head_dim = model.head_dim;
  const int64_t heads = part.heads(), kv_heads = part.kv_heads(), ff = part.ff();
  const int64_t row =
      2 * (2 + in_flight) * d + 2 * d + (2 * heads + 2 * kv_heads) * head_dim + 3 * ff;
  const int64_t head = part.last_stage ? kLogitRows * (2 * d + part.vocab()) : 0;
  return static_cast<uint64_t>(w.step_tokens_max * row + head) * sizeof(float);
}

}  // namespace

RankMemory MemoryOfRank(const Checkpoint& checkpoint, const ModelConfig& model,
                        const ParallelLayout& layout, int rank, const Workload& workload) {
  const RankPart part = PartOf(model, layout, rank);
  RankMemory memory;
  for (const TensorShardRef& shard : TensorShards(checkpoint, model, part).All()) {
    memory.weights += shard.bytes;
  }
  memory.kv = KvBytes(model, layout, part, workload);
  memory.activations = ActivationBytes(model, part, workload);
  return memory;
}

RankMemory MemoryOfRank(double bytes_per_weight, const ModelConfig& model,
                        const ParallelLayout& layout, int rank, const Workload& workload) {
  const RankPart part = PartOf(model, layout, rank);
  const ShardElements elements = ElementsOf(model, part.shard);
  double weights = part.n_layers() * (elements.attention + elements.mlp);
  weights += elements.head * (part.first_stage + part.last_stage);
  if (part.first_stage && part.last_stage && model.tied_embeddings) weights -= elements.head;
  RankMemory memory;
  memory.weights = static_cast<uint64_t>(weights * bytes_per_weight);
  memory.kv = KvBytes(model, layout, part, workload);
  memory.activations = ActivationBytes(model, part, workload);
  return memory;
}

}  // namespace echelon
