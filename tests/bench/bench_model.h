#pragma once
// SmolLM2-135M's shapes with random weights: what the kernel benchmarks run on. One thread.

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/read_bandwidth.h"
#include "kernels/thread_pool.h"

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

// The CPU backend; ends the program where there is none.
std::unique_ptr<Backend> MustMakeCpu(int threads);
// Bytes a second that `threads` read from a block of kModelBytes; measured once and printed.
double ReadBandwidth(int threads);
// What one token of the model reads: larger than second-level caches, as a decode step is.
inline constexpr size_t kModelBytes = size_t{96} << 20;

template <typename Body>
double SecondsOf(Body body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// A weight of the shape with random values; ends the program where there is no memory.
std::unique_ptr<Weight> RandomWeight(Backend& backend, const MatrixShape& shape);

// Which op of the decoder a moment was spent in.
enum Op { kOpNorm, kOpMatMul, kOpRope, kOpAttention, kOpGated, kOpResidual, kOpHead, kOps };
inline constexpr const char* kOpNames[kOps] = {"norm",  "matmul",   "rope", "attention",
                                               "gated", "residual", "head"};

// What one sequence brings to a step: positions [begin, begin + tokens).
struct Chunk {
  int sequence, begin, tokens;
};

// A whole model that runs steps of several sequences, all ops in the decoder's order.
class BenchModel {
 public:
  // contexts[s]: positions that sequence s has room for. rows_max: of a step.
  BenchModel(Backend& backend, std::span<const int> contexts, int rows_max);
  BenchModel(Backend& backend, int context_max)
      : BenchModel(backend, {&context_max, 1}, context_max) {}
  // Writes a key and a value at every position that there is room for.
  void FillCache();
  // Runs a step; logits of every chunk's last row.
  void Step(std::span<const Chunk> chunks);
  void Step(int begin, int tokens) {
    const Chunk chunk = {0, begin, tokens};
    Step({&chunk, 1});
  }
  // Every product of a step of one row (the head included), and nothing between them.
  void MultiplyAll();
  // The attention of every layer of such a step, and nothing between.
  void AttendAll(std::span<const Chunk> chunks);
  std::vector<const Weight*> weights() const;  // in the order in which a step reads them
  uint64_t weight_bytes() const { return weight_bytes_; }
  // Of one position, all layers.
  uint64_t kv_bytes_per_token() const { return cache_->shape().PageBytes() / kPageTokens; }
  // Seconds spent in each op since the model was made, or since the last call.
  std::array<double, kOps> TakeSeconds();

 private:
  struct Layer {
    std::unique_ptr<Weight> qkv, attention_out, gate_up, down;
  };
  void PlaceRows(std::span<const Chunk> chunks);
  void RunLayer(int layer, const BatchRows& rows);
  BatchRows rows() const;
  void Append(int layer, const BatchRows& rows);
  void Attend(int layer, const BatchRows& rows);
  void MakeCache(std::span<const int> contexts);
  Tensor View(int slot, int64_t cols) const;
  template <typename Body>
  void Timed(Op op, Body body);

  Backend& backend_;
  std::vector<Layer> layers_;
  std::unique_ptr<Weight> head_;
  std::unique_ptr<KvCache> cache_;
  std::vector<std::unique_ptr<DeviceBuffer>> buffers_;
  std::vector<double> inverse_frequency_;
  std::vector<int32_t> pages_, positions_, sequences_, page_begin_, last_rows_;
  uint64_t weight_bytes_ = 0;
  int tokens_ = 0;
  std::array<double, kOps> seconds_{};
};

// Reads weights with plain loads of the widest sort the machine has, cut among threads of its own.
// The weights outlive it.
class WeightReader {
 public:
  WeightReader(int threads, const std::vector<const Weight*>& weights);
  void Read();

 private:
  ThreadPool pool_;
  SumFloats sum_;
  std::vector<std::span<const float>> pieces_;
  std::atomic<float> sink_{0.0f};  // the sums must not be optimised away
};

}  // namespace echelon::bench
