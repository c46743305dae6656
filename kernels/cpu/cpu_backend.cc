#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cstring>

#include "common/strings.h"
#include "kernels/cpu/kv_cache.h"
#include "kernels/read_bandwidth.h"
#include "kernels/shape_check.h"

namespace echelon::cpu {

namespace {
// Elements of a row op that are worth another thread: waking one costs about what 16,384 simple
// element operations do (1-2 us).
constexpr int64_t kElementsPerRange = 16384;

// Steps of up to this many rows wait for memory.
constexpr int64_t kFewRows = 8;

int64_t RowsPerRange(int64_t cols) {
  return std::max<int64_t>(1, kElementsPerRange / std::max<int64_t>(1, cols));
}

bool HasAvx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}
bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}
bool HasAvxVnni() { return HasAvx2() && __builtin_cpu_supports("avxvnni"); }

// Best first.
struct Level {
  std::string_view isa;
  const char* needs;
  bool (*here)();
  const CpuKernels& (*kernels)();
};
constexpr Level kLevels[] = {
    {"avx512", "AVX-512 F, BW, VL, DQ and VNNI", HasAvx512, KernelsAvx512},
    {"avxvnni", "AVX2, FMA, F16C and AVX-VNNI", HasAvxVnni, KernelsAvxVnni},
    {"avx2", "AVX2, FMA and F16C", HasAvx2, KernelsAvx2},
};
}  // namespace

bool CpuSupported() { return HasAvx2(); }

Result<const CpuKernels*> ChooseKernels(std::string_view isa) {
  if (!HasAvx2()) {
    return Unsupported(
        "backend \"cpu\" needs AVX2, FMA and F16C, which this processor lacks: use \"reference\"");
  }
  for (const Level& level : kLevels) {
    if (isa != "auto" && isa != level.isa) continue;
    if (level.here()) return &level.kernels();
    if (isa == level.isa) {
      return Unsupported(StrCat("isa \"", isa, "\" needs ", level.needs,
                                ", which this processor lacks: use \"auto\""));
    }
  }
  return InvalidArgument(StrCat("isa \"", isa, "\" is unknown: use auto, avx2, avxvnni or avx512"),
                         "isa");
}

std::string CpuBackend::Describe() const {
  return StrCat("cpu, ", kernels_.title, ", ", pool_.threads(),
                pool_.threads() == 1 ? " thread" : " threads");
}
// All instruction sets give the same bits, so that hosts with different ones form one group.
std::string CpuBackend::NumericsFingerprint() const { return "cpu/v1"; }

Result<std::unique_ptr<DeviceBuffer>> CpuBackend::Allocate(size_t bytes) {
  return AllocateHostBuffer(bytes);
}
void CpuBackend::Upload(const void* host, void* device, size_t bytes) {
  if (bytes > 0) std::memcpy(device, host, bytes);
}
void CpuBackend::Download(const void* device, void* host, size_t bytes) {
  if (bytes > 0) std::memcpy(host, device, bytes);
}
void CpuBackend::Copy(const void* from, void* to, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
uint64_t CpuBackend::FreeMemoryBytes() const { return FreeHostMemoryBytes(); }
double CpuBackend::MeasureReadBandwidth(size_t bytes) {
  return echelon::MeasureReadBandwidth(pool_, bytes, kernels_.sum_floats);
}

Result<std::unique_ptr<Weight>> CpuBackend::PackWeight(std::span<const HostMatrix> parts) {
  return PackCpuWeight(parts, arena_, pool_);
}

Result<std::unique_ptr<KvCache>> CpuBackend::AllocateKv(const KvShape& shape) {
  CheckKvShape(shape);
  ASSIGN_OR_RETURN(HostBlock data,
                   AllocateHost(CpuKvCache::BytesFor(shape), "the key-value cache"));
  return std::unique_ptr<KvCache>(new CpuKvCache(shape, std::move(data)));
}

void CpuBackend::Embed(std::span<const int32_t> ids, const Weight& table, int32_t row_begin,
                       float scale, Tensor out) {
  const auto& weight = static_cast<const CpuWeight&>(table);
  ExpectShape(out, static_cast<int64_t>(ids.size()), table.cols());
  pool_.ParallelFor(out.rows, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t r = int64_t{ids[t]} - row_begin;
      float* row = out.row(t);
      if (r < 0 || r >= weight.rows()) {
        std::fill_n(row, out.cols, 0.0f);
        continue;
      }
      weight.ReadRow(r, row);
      for (int64_t i = 0; i < out.cols; ++i) row[i] *= scale;
    }
  });
}

void CpuBackend::RmsNorm(Tensor x, const float* weight, float eps, Tensor out) {
  ExpectShape(out, x.rows, x.cols);
  pool_.ParallelFor(x.rows, RowsPerRange(x.cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      kernels_.rms_norm(x.row(t), weight, eps, x.cols, out.row(t));
    }
  });
}

// A key is written into as many lines as it has pairs of elements, all of which a decode step finds
// in memory: asked for before the row's heads are rotated.
void CpuBackend::AskForTiles(const QkvArgs& args, int64_t row) const {
  const auto& cache = static_cast<const CpuKvCache&>(*args.cache);
  const int32_t sequence = args.rows.sequences[row], position = args.rows.positions[row];
  if (!cache.Keeps(args.rows, sequence, position)) return;
  const int32_t page = cache.PageOf(args.rows, sequence, position);
  for (int h = 0; h < args.kv_heads; ++h) {
    const std::byte* keys = cache.Keys(args.layer, page, h, position % cache.shape().page_tokens);
    for (int64_t byte = 0; byte < cache.tile().KeyBytes(); byte += 64) {
      __builtin_prefetch(keys + byte, 1);
    }
  }
}

void CpuBackend::RopeAppend(const QkvArgs& args) {
  CheckRopeAppend(args);
  auto& cache = static_cast<CpuKvCache&>(*args.cache);
  const int dim = args.head_dim, page_tokens = cache.shape().page_tokens;
  const RopeAngles::View angles = angles_.For(args.rope.inverse_frequency, args.rows.positions);
  pool_.ParallelFor(args.qkv.rows, RowsPerRange(args.qkv.cols), [&](int64_t from, int64_t to, int) {
    for (int64_t t = from; t < to; ++t) {
      if (args.qkv.rows <= kFewRows) AskForTiles(args, t);
      float* head = args.qkv.row(t);
      for (int h = 0; h < args.heads + args.kv_heads; ++h, head += dim) {
        const float* norm = h < args.heads ? args.query_norm : args.key_norm;
        if (norm != nullptr) kernels_.rms_norm(head, norm, args.norm_eps, dim, head);
        kernels_.rotate(head, angles.cos + t * (dim / 2), angles.sin + t * (dim / 2), dim,
                        args.rope.interleaved);
      }
      const int32_t position = args.rows.positions[t];
      if (!cache.Keeps(args.rows, args.rows.sequences[t], position)) continue;
      const int32_t page = cache.PageOf(args.rows, args.rows.sequences[t], position);
      const float* key = args.qkv.row(t) + int64_t{args.heads} * dim;
      const float* value = key + int64_t{args.kv_heads} * dim;
      for (int h = 0; h < args.kv_heads; ++h) {
        const int slot = position % page_tokens, lane = slot % kTilePositions;
        kernels_.store_key(cache.tile(), key + h * dim, cache.Keys(args.layer, page, h, slot),
                           lane);
        kernels_.store_value(cache.tile(), value + h * dim, cache.Values(args.layer, page, h, slot),
                             lane);
      }
    }
  });
}

void CpuBackend::GatedActivation(Tensor gate_up, GatedKind kind, Tensor out) {
  CheckGated(gate_up, out);
  // An exponential costs about 8 simple operations.
  pool_.ParallelFor(out.rows, RowsPerRange(out.cols * 8), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* gate = gate_up.row(t);
      kernels_.gated(gate, gate + out.cols, kind, out.cols, out.row(t));
    }
  });
}

void CpuBackend::AddResidual(Tensor residual, Tensor delta, float keep, const float* post_norm,
                             float eps) {
  ExpectShape(delta, residual.rows, residual.cols);
  const int64_t grain = RowsPerRange(residual.cols);
  pool_.ParallelFor(residual.rows, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      kernels_.add_residual(residual.row(t), delta.row(t), keep, post_norm, eps, residual.cols);
    }
  });
}

void CpuBackend::AddResidualNorm(Tensor residual, std::span<const float* const> terms, float keep,
                                 const float* post_norm, const float* norm, float eps, Tensor out) {
  CHECK(!terms.empty());
  ExpectShape(out, residual.rows, residual.cols);
  const int64_t grain = RowsPerRange(residual.cols);
  pool_.ParallelFor(residual.rows, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      kernels_.add_residual_norm({residual.row(t), terms.data(), terms.size(), t * residual.cols,
                                  keep, post_norm, norm, eps, residual.cols, out.row(t)});
    }
  });
}

void CpuBackend::GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out) {
  ExpectShape(out, static_cast<int64_t>(rows.size()), x.cols);
  for (int64_t i = 0; i < out.rows; ++i) {
    CHECK(rows[i] >= 0 && rows[i] < x.rows);
    std::memmove(out.row(i), x.row(rows[i]), static_cast<size_t>(x.cols) * sizeof(float));
  }
}

}  // namespace echelon::cpu
