#pragma once
// SmolLM2-135M's shapes with random weights: what the kernel benchmarks run on. One thread.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace echelon::bench {

inline constexpr int kLayers = 30, kWidth = 576, kHeads = 9, kKvHeads = 3, kHeadDim = 64;
inline constexpr int kHidden = 1536, kVocabulary = 49152, kPageTokens = 16;
inline constexpr int kQkvRows = (kHeads + 2 * kKvHeads) * kHeadDim;

struct MatrixShape {
  const char* name;
  TensorFormat format;
  int64_t rows, cols;
};
inline constexpr MatrixShape kShapes[] = {
    {"qkv", TensorFormat::kQ4_1, kQkvRows, kWidth},
    {"attention_out", TensorFormat::kQ4_1, kWidth, kWidth},
    {"gate_up", TensorFormat::kQ4_1, 2 * kHidden, kWidth},
    {"down", TensorFormat::kQ4_1, kWidth, kHidden},
    {"head", TensorFormat::kQ8_0, kVocabulary, kWidth},
};

// A weight of the shape with random values; ends the program where there is no memory.
std::unique_ptr<Weight> RandomWeight(Backend& backend, const MatrixShape& shape);

// A whole model that runs steps of T tokens for one sequence, all ops in the decoder's order.
class BenchModel {
 public:
  BenchModel(Backend& backend, int context_max);
  // Runs `tokens` positions from `begin` on; logits of the last.
  void Step(int begin, int tokens);
  uint64_t weight_bytes() const { return weight_bytes_; }

 private:
  struct Layer {
    std::unique_ptr<Weight> qkv, attention_out, gate_up, down;
  };
  void RunLayer(int layer, const BatchRows& rows);
  Tensor View(int slot, int64_t cols) const;

  Backend& backend_;
  std::vector<Layer> layers_;
  std::unique_ptr<Weight> head_;
  std::unique_ptr<KvCache> cache_;
  std::vector<std::unique_ptr<DeviceBuffer>> buffers_;
  std::vector<double> inverse_frequency_;
  std::vector<int32_t> pages_, positions_, sequences_, page_begin_;
  uint64_t weight_bytes_ = 0;
  int tokens_ = 0;
};

}  // namespace echelon::bench
