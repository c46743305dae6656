#pragma once
// NaiveModel: an independent twin of the decoder for tests. Double precision, no cache, no batch:
// the whole sequence at once, each schedule written from its published recurrence. Ranks are
// emulated as a loop, which is what defines desync: its numbers depend on tp.

#include <cstdint>
#include <string>
#include <vector>

#include "common/model/checkpoint.h"
#include "common/model_config.h"

namespace echelon::testing {

using Matrix = std::vector<std::vector<double>>;  // [row][column]

class NaiveModel {
 public:
  // Reads every tensor of the checkpoint. `model`: its configuration, perhaps with another
  // schedule.
  NaiveModel(const Checkpoint& checkpoint, const ModelConfig& model);

  // Natural-log probabilities [position][token] of the whole vocabulary, computed by `tp` ranks.
  Matrix LogProbabilities(const std::vector<int32_t>& ids, int tp = 1) const;

 private:
  struct Layer {
    Matrix q, k, v, o, gate, up, down;
    std::vector<double> q_bias, k_bias, v_bias;
    std::vector<double> norm1, norm2, post1, post2, q_norm, k_norm;
  };
  Matrix Embedded(const std::vector<int32_t>& ids) const;
  Matrix Norm(const Matrix& x, const std::vector<double>& weight) const;
  // One rank's share of the output.
  Matrix Attention(int layer, const Matrix& x, const TensorShard& shard) const;
  Matrix Mlp(int layer, const Matrix& x, const TensorShard& shard) const;
  // Of all ranks together, with the norm before and, where there is one, after.
  Matrix A(int layer, const Matrix& x) const;
  Matrix M(int layer, const Matrix& x) const;
  void NormAndRotate(std::vector<double>& head, const std::vector<double>& norm, int layer,
                     int position) const;

  Matrix Standard(Matrix x) const;
  Matrix Ladder(const Matrix& x) const;
  Matrix Parallel(Matrix x) const;
  Matrix Desync(const Matrix& x, int tp) const;

  ModelConfig m_;
  Matrix embedding_, head_;
  std::vector<double> final_norm_;
  std::vector<Layer> layers_;
};

}  // namespace echelon::testing
