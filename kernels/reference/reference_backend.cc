#include "kernels/reference/reference_backend.h"

#include <cmath>
#include <cstring>
#include <numeric>

#include "common/strings.h"
#include "kernels/host_memory.h"
#include "kernels/read_bandwidth.h"
#include "kernels/real_math.h"
#include "kernels/reference/kv_cache.h"
#include "kernels/reference/weight.h"
#include "kernels/shape_check.h"

namespace echelon::reference {

namespace {
// out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i]
void Normalize(const float* x, const float* weight, float eps, int64_t n, double* out) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  const double root = std::sqrt(sum / static_cast<double>(n) + eps);
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] / root * weight[i];
}

double Silu(double x) { return x / (1.0 + RealExp(-x)); }

// 0.5 x (1 + tanh u), the form that checkpoints call "gelu_pytorch_tanh", without its cancellation:
// (1 + tanh u) / 2 = 1 / (1 + e^-2u); sqrt(2 / pi) = 0.7978845608...
double GeluTanh(double x) {
  const double u = 0.79788456080286535588 * (x + 0.044715 * x * x * x);
  return x / (1.0 + RealExp(-2.0 * u));
}

void RotateHead(const RopeTable& rope, int32_t position, int dim, float* head) {
  for (int i = 0; i < dim / 2; ++i) {
    const SinCos angle = RealSinCos(position * rope.inverse_frequency[i]);
    float& a = head[rope.interleaved ? 2 * i : i];
    float& b = head[rope.interleaved ? 2 * i + 1 : i + dim / 2];
    const double x = a, y = b;
    a = static_cast<float>(x * angle.cos - y * angle.sin);
    b = static_cast<float>(y * angle.cos + x * angle.sin);
  }
}
}  // namespace

std::string ReferenceBackend::Describe() const {
  return StrCat("reference, double accumulation, ", pool_.threads(), " thread",
                pool_.threads() == 1 ? "" : "s");
}

Result<std::unique_ptr<DeviceBuffer>> ReferenceBackend::Allocate(size_t bytes) {
  return AllocateHostBuffer(bytes);
}
void ReferenceBackend::Upload(const void* host, void* device, size_t bytes) {
  if (bytes > 0) std::memcpy(device, host, bytes);
}
void ReferenceBackend::Download(const void* device, void* host, size_t bytes) {
  if (bytes > 0) std::memcpy(host, device, bytes);
}
void ReferenceBackend::Copy(const void* from, void* to, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
uint64_t ReferenceBackend::FreeMemoryBytes() const { return FreeHostMemoryBytes(); }
double ReferenceBackend::MeasureReadBandwidth(size_t bytes) {
  return echelon::MeasureReadBandwidth(pool_, bytes, [](const float* values, int64_t n) {
    float sums[64] = {};
    for (int64_t i = 0; i < n; i += 64) {
      for (int64_t j = 0; j < 64; ++j) sums[j] += values[i + j];
    }
    return std::accumulate(sums, sums + 64, 0.0f);
  });
}
Result<std::unique_ptr<Weight>> ReferenceBackend::PackWeight(std::span<const HostMatrix> parts) {
  return PackRefWeight(parts);
}
Result<std::unique_ptr<KvCache>> ReferenceBackend::AllocateKv(const KvShape& shape) {
  return AllocateRefKv(shape);
}

void ReferenceBackend::Embed(std::span<const int32_t> ids, const Weight& table, int32_t row_begin,
                             float scale, Tensor out) {
  const auto& weight = static_cast<const RefWeight&>(table);
  ExpectShape(out, static_cast<int64_t>(ids.size()), table.cols());
  std::vector<float> scratch(weight.stored_cols_max());
  for (int64_t t = 0; t < out.rows; ++t) {
    const int64_t r = static_cast<int64_t>(ids[t]) - row_begin;
    const bool here = r >= 0 && r < table.rows();
    const float* row = here ? weight.Row(r, scratch.data()) : nullptr;
    for (int64_t i = 0; i < out.cols; ++i) out.row(t)[i] = here ? row[i] * scale : 0.0f;
  }
}

void ReferenceBackend::RmsNorm(Tensor x, const float* weight, float eps, Tensor out) {
  ExpectShape(out, x.rows, x.cols);
  std::vector<double> normed(x.cols);
  for (int64_t t = 0; t < x.rows; ++t) {
    Normalize(x.row(t), weight, eps, x.cols, normed.data());
    for (int64_t i = 0; i < x.cols; ++i) out.row(t)[i] = static_cast<float>(normed[i]);
  }
}

void ReferenceBackend::RopeAppend(const QkvArgs& args) {
  CheckRopeAppend(args);
  auto& cache = static_cast<RefKvCache&>(*args.cache);
  const int dim = args.head_dim;
  pool_.ParallelFor(args.qkv.rows, 1, [&](int64_t begin, int64_t, int) {
    const int64_t t = begin;
    std::vector<double> normed(dim);
    for (int h = 0; h < args.heads + args.kv_heads; ++h) {
      float* head = args.qkv.row(t) + static_cast<int64_t>(h) * dim;
      const float* norm = h < args.heads ? args.query_norm : args.key_norm;
      if (norm != nullptr) {
        Normalize(head, norm, args.norm_eps, dim, normed.data());
        for (int i = 0; i < dim; ++i) head[i] = static_cast<float>(normed[i]);
      }
      RotateHead(args.rope, args.rows.positions[t], dim, head);
    }
    const int64_t slot = cache.SlotOf(args.rows, args.rows.sequences[t], args.rows.positions[t]);
    if (slot < 0) return;
    const float* keys = args.qkv.row(t) + static_cast<int64_t>(args.heads) * dim;
    const float* values = keys + static_cast<int64_t>(args.kv_heads) * dim;
    for (int h = 0; h < args.kv_heads; ++h) {
      cache.Write(args.layer, slot, h, RefKvCache::kKey, keys + static_cast<int64_t>(h) * dim);
      cache.Write(args.layer, slot, h, RefKvCache::kValue, values + static_cast<int64_t>(h) * dim);
    }
  });
}

void ReferenceBackend::GatedActivation(Tensor gate_up, GatedKind kind, Tensor out) {
  CheckGated(gate_up, out);
  pool_.ParallelFor(out.rows, 1, [&](int64_t t, int64_t, int) {
    for (int64_t i = 0; i < out.cols; ++i) {
      const double gate = gate_up.row(t)[i];
      const double up = gate_up.row(t)[out.cols + i];
      const double activated = kind == GatedKind::kSilu ? Silu(gate) : GeluTanh(gate);
      out.row(t)[i] = static_cast<float>(activated * up);
    }
  });
}

void ReferenceBackend::AddResidual(Tensor residual, Tensor delta, float keep,
                                   const float* post_norm, float eps) {
  ExpectShape(delta, residual.rows, residual.cols);
  std::vector<double> normed(residual.cols);
  for (int64_t t = 0; t < residual.rows; ++t) {
    if (post_norm != nullptr) Normalize(delta.row(t), post_norm, eps, delta.cols, normed.data());
    for (int64_t i = 0; i < residual.cols; ++i) {
      const double change = post_norm != nullptr ? normed[i] : delta.row(t)[i];
      float& value = residual.row(t)[i];
      value = static_cast<float>(static_cast<double>(value) * keep + change);
    }
  }
}

void ReferenceBackend::GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out) {
  ExpectShape(out, static_cast<int64_t>(rows.size()), x.cols);
  for (int64_t i = 0; i < out.rows; ++i) {
    CHECK(rows[i] >= 0 && rows[i] < x.rows);
    std::memmove(out.row(i), x.row(rows[i]), static_cast<size_t>(x.cols) * sizeof(float));
  }
}

}  // namespace echelon::reference
