#pragma once
// The table of what is compiled once per instruction set (kernels_avx2.cc, kernels_avx512.cc).
// Plain functions over raw pointers, on ranges that the caller hands to threads: no allocation, no
// library code, so that nothing compiled for a newer processor leaks into the rest of the program.
// Every table gives the same bits: the bodies are written once (*_inl.h) over 16 logical lanes.

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/panels.h"

namespace echelon::cpu {

// Activations as 15-bit codes with a scale for 32: x = scale * code. One byte is not enough: its
// rounding (1/254 of a group's largest value) moves a model's log-probabilities by up to 0.5; two
// bytes move them by less than a float16 cache does. A decode step waits for weights to come from
// memory, not for their multiplication.
inline constexpr int kCodeLimit = 127 << 7;  // largest code, of either sign

// Group after group, so that the tokens of a tile lie next to each other: a product takes them at
// fixed distances from one address.
struct QuantisedRows {
  int64_t tokens = 0;  // T
  int64_t groups = 0;
  int16_t* codes = nullptr;  // (groups, T, 32); zero outside the inputs
  float* scales = nullptr;   // (groups, T)
  float* sums = nullptr;     // (groups, T) scale * sum of codes: what a minimum is multiplied with
};

struct MatMulArgs {
  const float* x = nullptr;  // (T, K), for float panels
  int64_t x_stride = 0;
  QuantisedRows quantised;      // the same, for quantised panels
  const float* bias = nullptr;  // (N) of the stacked weight, or null
  float* out = nullptr;         // (T, N)
  int64_t out_stride = 0;
};

// Where a thread unpacks weights that many tokens share: up to kBlockGroups groups of two panels
// (147 KB: second-level cache), and the sums of a chunk of tokens between two such blocks.
inline constexpr int kPanelsAtOnce = 2;
inline constexpr int kBlockGroups = 64;
inline constexpr int kChunkTokens = 256;  // at most, of a MatMulRange; a multiple of every tile
struct alignas(64) MatMulScratch {
  int16_t codes[kBlockGroups * kPanelsAtOnce * kGroup * kPanelRows];
  float
      scales[kBlockGroups * kPanelsAtOnce * 2 * kPanelRows];  // split: two; else scale and minimum
  float sums[kChunkTokens * kPanelsAtOnce * kPanelRows];
};

// Part of a product: panels of one part, tokens (at most kChunkTokens), and the thread's scratch.
struct MatMulRange {
  int64_t panel_begin = 0, panel_end = 0;
  int64_t token_begin = 0, token_end = 0;
  MatMulScratch* scratch = nullptr;
};

// Keys and values of 16 positions of one KV head, element type by KvType.
struct KvTile {
  const void* keys = nullptr;    // (D, 16): a lane owns a position
  const void* values = nullptr;  // (16, value_stride)
};

inline constexpr int kSplitTiles = kAttentionSplit / 16;
inline constexpr int kHeadsAtOnce = 4;  // query heads that share one pass over keys and values

// Up to kHeadsAtOnce query heads of one token against the positions of one split.
struct SplitArgs {
  KvType type = KvType::kF16;
  KvTile tiles[kSplitTiles];
  int value_stride = 0;    // D rounded up to 16
  int head_dim = 0;        // D
  int begin = 0, end = 0;  // positions of the split that are seen, end > begin
  float scale = 0.0f;
  int heads = 0;
  const float* q[kHeadsAtOnce];  // (D)
  float* sums[kHeadsAtOnce];     // (value_stride) out: sum of exp(score - best) * value
  float best[kHeadsAtOnce];      // out: largest score
  float total[kHeadsAtOnce];     // out: sum of exp(score - best)
};

struct CpuKernels {
  const char* isa;

  // Rows [begin, end) of x (T, cols); column 0 is element `lead` of the first group.
  void (*quantise)(const float* x, int64_t stride, int64_t cols, int lead, int64_t begin,
                   int64_t end, const QuantisedRows& out);
  void (*matmul)(const MatMulArgs& args, const PanelPart& part, const MatMulRange& range);
  // One row of n values each.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
  void (*add_residual)(float* residual, const float* delta, float keep, const float* post_norm,
                       float eps, int64_t n);
  void (*gated)(const float* gate, const float* up, GatedKind kind, int64_t n, float* out);
  // Rotates one head by cos and sin (D / 2).
  void (*rotate)(float* head, const float* cos, const float* sin, int head_dim, bool interleaved);
  // One position's key into its lane of a tile (D, 16), and value into its row, zero-filled.
  void (*store_key)(KvType type, const float* key, int head_dim, void* lane);
  void (*store_value)(KvType type, const float* value, int head_dim, void* row);
  void (*attend_split)(SplitArgs& args);
  // Adds a later split to (sums, best, total).
  void (*merge_split)(float* sums, float* best, float* total, const float* other_sums,
                      float other_best, float other_total, int n);
  float (*sum_floats)(const float* values, int64_t n);  // n a multiple of 64: for read_bandwidth.h
};

const CpuKernels& KernelsAvx2();
const CpuKernels& KernelsAvx512();

}  // namespace echelon::cpu
