#include "common/planner/memory.h"

#include <algorithm>

#include "common/rank_part.h"
#include "common/shard_elements.h"
#include "common/step_buffers.h"
#include "common/tensor_shards.h"

namespace echelon {

namespace {

uint64_t KvBytes(const ModelConfig& model, const ParallelLayout& layout, const RankPart& part,
                 const Workload& w) {
  const int64_t pages = (w.context + w.page_tokens - 1) / w.page_tokens;
  const int64_t own = (pages + layout.sp - 1) / layout.sp;  // page p lies on rank p mod sp
  const double position = 2.0 * part.kv_heads() * model.head_dim * w.kv_value_bytes;  // a layer
  uint64_t bytes =
      static_cast<uint64_t>(part.n_layers() * position) * own * w.page_tokens * w.streams;
  if (layout.sp > 1) {  // messages of a layer on their way round the ring
    const int64_t ring =
        RingPages(layout.sp, static_cast<int>(w.page_tokens), w.ring_tokens, w.context);
    bytes += static_cast<uint64_t>(position) * kRingMessages * ring * w.page_tokens;
  }
  return bytes;
}

uint64_t BufferBytes(const ModelConfig& model, const ParallelLayout& layout, const RankPart& part,
                     const Workload& w) {
  const StepBounds bounds{w.step_tokens_max, std::max(w.sequences_max, w.streams), w.page_tokens,
                          layout.sp};
  return static_cast<uint64_t>(StepBufferBytes(model, part, bounds));
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
  memory.activations = BufferBytes(model, layout, part, workload);
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
  memory.activations = BufferBytes(model, layout, part, workload);
  return memory;
}

}  // namespace echelon
