#pragma once
// Weights: this rank's part of a checkpoint in its backend's memory. Read through Checkpoint by the
// table SpecOf (parallel_layout.h), packed by the Backend, still quantised; norms and biases as
// floats. Made once by LoadWeights, then read only; lives as long as its backend. One thread.

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "common/model/checkpoint.h"
#include "common/rank_part.h"
#include "common/result.h"
#include "kernels/backend.h"

namespace echelon {

// A vector of floats in backend memory, or none.
class DeviceFloats {
 public:
  DeviceFloats() = default;
  DeviceFloats(std::unique_ptr<DeviceBuffer> buffer, int64_t size)
      : buffer_(std::move(buffer)), size_(size) {}
  const float* get() const {
    return buffer_ ? static_cast<const float*>(buffer_->data()) : nullptr;
  }
  int64_t size() const { return size_; }

 private:
  std::unique_ptr<DeviceBuffer> buffer_;
  int64_t size_ = 0;
};

// H, KV, F: heads, KV heads and FFN columns of this rank. A weight is null where the rank's share
// is empty (more ranks than FFN blocks).
struct LayerWeights {
  DeviceFloats attention_norm;                      // (d_model)
  DeviceFloats query_norm, key_norm;                // (head_dim), or none
  DeviceFloats post_attention_norm, post_mlp_norm;  // (d_model), or none
  DeviceFloats mlp_norm;                            // (d_model)
  std::unique_ptr<Weight> qkv;                      // ((H + 2 KV) * head_dim, d_model)
  DeviceFloats qkv_bias;                            // ((H + 2 KV) * head_dim), or none
  std::unique_ptr<Weight> attention_out;            // (d_model, H * head_dim)
  std::unique_ptr<Weight> gate_up;                  // (2 F, d_model)
  std::unique_ptr<Weight> down;                     // (d_model, F)
};

struct Weights {
  std::vector<LayerWeights> layers;  // of this stage, in order
  // Post norms of the layer before the stage: a ladder's pending outputs cross the boundary and are
  // normed where they are merged. Empty unless the model has post norms and the stage is not first.
  LayerWeights before;
  std::shared_ptr<Weight> embedding;  // (vocab part, d_model); first stage
  std::shared_ptr<Weight> head;       // (vocab part, d_model); last stage; may be the embedding
  DeviceFloats final_norm;            // (d_model); last stage
  uint64_t bytes = 0;                 // packed, all together
};

// Packed bytes that one decoded token reads: all but an embedding table that is not the head (one
// row of it).
uint64_t TokenBytes(const Weights& weights);

// Bytes that LoadWeights reads for this rank, from the tensors' headers alone: about what the
// packed weights take.
uint64_t WeightBytes(const Checkpoint& checkpoint, const RankPart& part);

// Called after every tensor, on the loading thread.
using LoadProgress = std::function<void(uint64_t bytes_done, uint64_t bytes_total)>;

// Memory at its peak: the packed weights and the parts of one matrix (gate and up, or q, k and v).
// `memory_bytes`: what this rank may use; an error names the rank and both figures before anything
// is read when the model does not fit. `model`: the checkpoint's configuration, perhaps with
// another schedule.
Result<Weights> LoadWeights(const Checkpoint& checkpoint, const ModelConfig& model,
                            const RankPart& part, uint64_t memory_bytes, Backend& backend,
                            const LoadProgress& progress = {});

}  // namespace echelon
