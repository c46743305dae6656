#include "worker/kv_cache.h"

#include <algorithm>

#include "common/step_buffers.h"
#include "common/strings.h"

namespace echelon {

namespace {
std::string Remedy(const KvSettings& settings) {
  if (settings.step_bytes == 0) return "; raise worker.kv_memory_bytes or use more ranks";
  return StrCat(", what is free but for ", HumanBytes(static_cast<double>(settings.step_bytes)),
                " of its steps; lower scheduler.step_tokens_max or use more ranks");
}
}  // namespace

Result<KvShape> SizeKvCache(const ModelConfig& model, const RankPart& part,
                            const KvSettings& settings) {
  KvShape shape;
  shape.layers = part.n_layers();
  shape.page_tokens = settings.page_tokens;
  shape.kv_heads = part.kv_heads();
  shape.head_dim = model.head_dim;
  shape.type = settings.type;
  const uint64_t page_bytes = shape.PageBytes();
  const uint64_t pages_of_sequence =
      (static_cast<uint64_t>(settings.context_max) + settings.page_tokens - 1) /
      settings.page_tokens;
  const uint64_t of_rank = (pages_of_sequence + settings.sp - 1) / settings.sp;
  const uint64_t useful = of_rank * settings.sequences_max;
  const uint64_t ring_bytes = kRingMessages * settings.ring_pages * (page_bytes / shape.layers);
  const uint64_t memory = settings.memory_bytes - std::min(ring_bytes, settings.memory_bytes);
  const uint64_t pages = std::min(memory / page_bytes, useful);
  if (pages == 0) {
    Error error = ResourceExhausted(
        StrCat("rank ", part.rank, ": one KV page of ", settings.page_tokens, " tokens needs ",
               HumanBytes(static_cast<double>(page_bytes)), " and the ring ",
               HumanBytes(static_cast<double>(ring_bytes)), ", the KV memory",
               settings.device.empty() ? "" : " of ", settings.device, " is ",
               HumanBytes(static_cast<double>(settings.memory_bytes)), Remedy(settings)));
    error.rank = part.rank;
    return error;
  }
  const uint64_t pages_max = (1 << 30) / settings.sp;  // ids of all ranks' pages are int32_t
  shape.pages = static_cast<int>(std::min(pages, pages_max));
  return shape;
}

}  // namespace echelon
