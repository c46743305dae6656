#pragma once
// Bytes that each rank of a layout needs, before anything is loaded. Pure functions.

#include <cstdint>

#include "common/model/checkpoint.h"
#include "common/model_config.h"
#include "common/parallel_layout.h"

namespace echelon {

struct Workload {
  int64_t context = 0;  // positions of each sequence
  int64_t streams = 1;  // sequences at once
  int64_t step_tokens_max = 512;
  int64_t sequences_max = 64;  // that the service admits: at least the streams
  int64_t page_tokens = 16;
  int ring_tokens = 1024;       // of a message round the ring
  double kv_value_bytes = 2.0;  // of one element of a key or value
};

struct RankMemory {
  uint64_t weights = 0;      // as the checkpoint stores what the shard table gives the rank
  uint64_t kv = 0;           // of all streams at their full context; with it the ring's messages
  uint64_t activations = 0;  // common/step_buffers.h
  uint64_t total() const { return weights + kv + activations; }
};
RankMemory MemoryOfRank(const Checkpoint& checkpoint, const ModelConfig& model,
                        const ParallelLayout& layout, int rank, const Workload& workload);

// Without a checkpoint: every weight takes so many bytes.
RankMemory MemoryOfRank(double bytes_per_weight, const ModelConfig& model,
                        const ParallelLayout& layout, int rank, const Workload& workload);

}  // namespace echelon
