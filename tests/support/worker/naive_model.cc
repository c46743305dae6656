#include "tests/support/worker/naive_model.h"

#include <algorithm>
#include <cmath>

#include "common/model/rope.h"
#include "kernels/quant/quant.h"

namespace echelon::testing {

namespace {

Matrix ReadMatrix(const Checkpoint& checkpoint, TensorRole role, int layer) {
  const TensorInfo* info = checkpoint.Find(role, layer);
  if (info == nullptr) return {};
  const TensorPiece piece = checkpoint.Read(*info, {0, info->rows}, {0, info->cols}).value();
  Matrix out;
  std::vector<float> row(info->cols);
  for (int64_t r = 0; r < info->rows; ++r) {
    DequantizeRow(info->format, piece.bytes.data() + r * piece.row_bytes, info->cols, row.data());
    out.emplace_back(row.begin(), row.end());
  }
  return out;
}

std::vector<double> ReadVector(const Checkpoint& checkpoint, TensorRole role, int layer,
                               double add = 0.0) {
  const Matrix matrix = ReadMatrix(checkpoint, role, layer);
  if (matrix.empty()) return {};
  std::vector<double> out = matrix[0];
  for (double& value : out) value += add;
  return out;
}

double Dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

Matrix Zeros(size_t rows, size_t cols) { return Matrix(rows, std::vector<double>(cols, 0.0)); }

Matrix Sum(Matrix a, const Matrix& b, double b_scale = 1.0) {
  for (size_t r = 0; r < a.size(); ++r) {
    for (size_t c = 0; c < a[r].size(); ++c) a[r][c] += b[r][c] * b_scale;
  }
  return a;
}

TensorShard Whole(const ModelConfig& m) { return ShardOf(m, {.tp = 1}, 0); }

}  // namespace

NaiveModel::NaiveModel(const Checkpoint& checkpoint, const ModelConfig& model) : m_(model) {
  using enum TensorRole;
  const double add = m_.norm_plus_one ? 1.0 : 0.0;
  embedding_ = ReadMatrix(checkpoint, kEmbedding, 0);
  head_ = ReadMatrix(checkpoint, kLmHead, 0);
  if (head_.empty()) head_ = embedding_;
  final_norm_ = ReadVector(checkpoint, kFinalNorm, 0, add);
  for (int l = 0; l < m_.n_layers(); ++l) {
    Layer w;
    w.q = ReadMatrix(checkpoint, kQuery, l);
    w.k = ReadMatrix(checkpoint, kKey, l);
    w.v = ReadMatrix(checkpoint, kValue, l);
    w.o = ReadMatrix(checkpoint, kAttentionOut, l);
    w.gate = ReadMatrix(checkpoint, kGate, l);
    w.up = ReadMatrix(checkpoint, kUp, l);
    w.down = ReadMatrix(checkpoint, kDown, l);
    if (m_.qkv_bias) {
      w.q_bias = ReadVector(checkpoint, kQueryBias, l);
      w.k_bias = ReadVector(checkpoint, kKeyBias, l);
      w.v_bias = ReadVector(checkpoint, kValueBias, l);
    }
    w.norm1 = ReadVector(checkpoint, kAttentionNorm, l, add);
    w.norm2 = ReadVector(checkpoint, kMlpNorm, l, add);
    if (m_.post_norms) {
      w.post1 = ReadVector(checkpoint, kPostAttentionNorm, l, add);
      w.post2 = ReadVector(checkpoint, kPostMlpNorm, l, add);
    }
    if (m_.qk_norm) {
      w.q_norm = ReadVector(checkpoint, kQueryNorm, l, add);
      w.k_norm = ReadVector(checkpoint, kKeyNorm, l, add);
    }
    layers_.push_back(std::move(w));
  }
}

Matrix NaiveModel::Embedded(const std::vector<int32_t>& ids) const {
  Matrix x;
  for (const int32_t id : ids) {
    x.push_back(embedding_[id]);
    for (double& value : x.back()) value *= m_.embedding_scale;
  }
  return x;
}

Matrix NaiveModel::Norm(const Matrix& x, const std::vector<double>& weight) const {
  if (weight.empty()) return x;
  Matrix out = x;
  for (auto& row : out) {
    const double scale = 1.0 / std::sqrt(Dot(row, row) / row.size() + m_.norm_eps);
    for (size_t i = 0; i < row.size(); ++i) row[i] *= scale * weight[i];
  }
  return out;
}

void NaiveModel::NormAndRotate(std::vector<double>& head, const std::vector<double>& norm,
                               int layer, int position) const {
  if (!norm.empty()) head = Norm({head}, norm)[0];
  const auto frequencies = RopeInverseFrequencies(m_.layers[layer], m_.head_dim);
  const int half = m_.head_dim / 2;
  for (int i = 0; i < half; ++i) {
    const bool pairs = m_.rope_pairs == RopePairs::kInterleaved;
    double& a = head[pairs ? 2 * i : i];
    double& b = head[pairs ? 2 * i + 1 : i + half];
    const double c = std::cos(position * frequencies[i]), s = std::sin(position * frequencies[i]);
    const double turned = a * c - b * s;
    b = a * s + b * c;
    a = turned;
  }
}

Matrix NaiveModel::Attention(int layer, const Matrix& x, const TensorShard& shard) const {
  const Layer& w = layers_[layer];
  const int d = m_.head_dim, window = m_.layers[layer].window;
  const int tokens = static_cast<int>(x.size());
  const auto project = [&](const Matrix& weight, const std::vector<double>& bias, int64_t head) {
    Matrix out = Zeros(tokens, d);
    for (int t = 0; t < tokens; ++t) {
      for (int i = 0; i < d; ++i) {
        out[t][i] = Dot(weight[head * d + i], x[t]) + (bias.empty() ? 0.0 : bias[head * d + i]);
      }
    }
    return out;
  };
  Matrix out = Zeros(tokens, m_.d_model);
  for (int64_t h = shard.heads.begin; h < shard.heads.end; ++h) {
    const int64_t kv = h / (m_.n_heads / m_.n_kv_heads);
    Matrix q = project(w.q, w.q_bias, h), k = project(w.k, w.k_bias, kv);
    const Matrix v = project(w.v, w.v_bias, kv);
    for (int t = 0; t < tokens; ++t) {
      NormAndRotate(q[t], w.q_norm, layer, t);
      NormAndRotate(k[t], w.k_norm, layer, t);
    }
    for (int t = 0; t < tokens; ++t) {
      const int first = window > 0 ? std::max(0, t - window + 1) : 0;
      std::vector<double> weights;
      double sum = 0.0;
      for (int s = first; s <= t; ++s) {
        weights.push_back(std::exp(m_.attention_scale * Dot(q[t], k[s])));
        sum += weights.back();
      }
      for (int i = 0; i < d; ++i) {
        double value = 0.0;
        for (int s = first; s <= t; ++s) value += weights[s - first] / sum * v[s][i];
        for (int c = 0; c < m_.d_model; ++c) out[t][c] += value * w.o[c][h * d + i];
      }
    }
  }
  return out;
}

Matrix NaiveModel::Mlp(int layer, const Matrix& x, const TensorShard& shard) const {
  const Layer& w = layers_[layer];
  Matrix out = Zeros(x.size(), m_.d_model);
  for (size_t t = 0; t < x.size(); ++t) {
    for (int64_t f = shard.ff.begin; f < shard.ff.end; ++f) {
      const double g = Dot(w.gate[f], x[t]);
      const double active =
          m_.activation == Activation::kSilu
              ? g / (1.0 + std::exp(-g))
              : 0.5 * g * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (g + 0.044715 * g * g * g)));
      const double hidden = active * Dot(w.up[f], x[t]);
      for (int c = 0; c < m_.d_model; ++c) out[t][c] += hidden * w.down[c][f];
    }
  }
  return out;
}

Matrix NaiveModel::A(int l, const Matrix& x) const {
  return Norm(Attention(l, Norm(x, layers_[l].norm1), Whole(m_)), layers_[l].post1);
}

Matrix NaiveModel::M(int l, const Matrix& x) const {
  return Norm(Mlp(l, Norm(x, layers_[l].norm2), Whole(m_)), layers_[l].post2);
}

// x += A(N1 x); x += M(N2 x)
Matrix NaiveModel::Standard(Matrix x) const {
  for (int l = 0; l < m_.n_layers(); ++l) {
    x = Sum(x, A(l, x));
    x = Sum(x, M(l, x));
  }
  return x;
}

// A layer hands on (ha, hm): the stream after attention and after the MLP. A ladder layer reads
// N1(ha) and N2(hm) of the layer before, an ordinary layer hm alone.
Matrix NaiveModel::Ladder(const Matrix& x) const {
  Matrix ha = x, hm = x;
  for (int l = 0; l < m_.n_layers(); ++l) {
    if (m_.layers[l].ladder) {
      const Matrix next_ha = Sum(hm, A(l, ha));
      hm = Sum(next_ha, M(l, hm));
      ha = next_ha;
    } else {
      ha = Sum(hm, A(l, hm));
      hm = Sum(ha, M(l, ha));
    }
  }
  return hm;
}

// x = x + A(N1 x) + M(N1 x)
Matrix NaiveModel::Parallel(Matrix x) const {
  for (int l = 0; l < m_.n_layers(); ++l) {
    const Matrix n = Norm(x, layers_[l].norm1);
    x = Sum(Sum(x, Attention(l, n, Whole(m_))), Mlp(l, n, Whole(m_)));
  }
  return x;
}

// Dropped: x_r = x_r + f_r(x_r). Kept: every x_r = sum over r of (f_r(x_r) + x_r / N).
Matrix NaiveModel::Desync(const Matrix& x, int tp) const {
  std::vector<Matrix> xs(tp, x);
  for (size_t step = 0; step < 2 * layers_.size(); ++step) {
    const int l = static_cast<int>(step / 2);
    const bool last = step + 1 == 2 * layers_.size();
    const bool keep = last || m_.desync_pattern[step] == '1';
    Matrix sum = Zeros(x.size(), m_.d_model);
    for (int r = 0; r < tp; ++r) {
      const TensorShard shard = ShardOf(m_, {.tp = tp}, r);
      const Matrix f = step % 2 == 0 ? Attention(l, Norm(xs[r], layers_[l].norm1), shard)
                                     : Mlp(l, Norm(xs[r], layers_[l].norm2), shard);
      if (keep) {
        sum = Sum(Sum(sum, f), xs[r], 1.0 / tp);
      } else {
        xs[r] = Sum(xs[r], f);
      }
    }
    if (keep) std::fill(xs.begin(), xs.end(), sum);
  }
  return xs[0];
}

Matrix NaiveModel::LogProbabilities(const std::vector<int32_t>& ids, int tp) const {
  Matrix x = Embedded(ids);
  switch (m_.schedule) {
    case ScheduleKind::kStandard:
      x = Standard(x);
      break;
    case ScheduleKind::kLadder:
      x = Ladder(x);
      break;
    case ScheduleKind::kParallel:
      x = Parallel(x);
      break;
    case ScheduleKind::kDesync:
      x = Desync(x, tp);
      break;
  }
  x = Norm(x, final_norm_);
  Matrix out;
  for (const auto& row : x) {
    std::vector<double> logits;
    for (const auto& token : head_) logits.push_back(Dot(row, token));
    const double max = *std::max_element(logits.begin(), logits.end());
    double sum = 0.0;
    for (const double logit : logits) sum += std::exp(logit - max);
    for (double& logit : logits) logit -= max + std::log(sum);
    out.push_back(std::move(logits));
  }
  return out;
}

}  // namespace echelon::testing
