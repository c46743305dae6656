#pragma once
// The table of what is compiled once per instruction set (kernels_avx2.cc,
// kernels_avxvnni.cc, kernels_avx512.cc).
// Plain functions over raw pointers, on ranges that the caller hands to threads: no allocation, no
// library code, so that nothing compiled for a newer processor leaks into the rest of the program.
// Every table gives the same bits: the bodies are written once (*_inl.h) over 16 logical lanes.

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/kv_tile.h"
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
  // Of few tokens, for kernels that multiply bytes: code = 128 * high + low, in the order that
  // V::StoreSplitCodes tells, and the sums of codes 0..15 and 16..31. Else null.
  int8_t* bytes = nullptr;       // (groups, T, 64)
  int32_t* half_sums = nullptr;  // (groups, T, 2)
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

// Keys and values of 16 positions of one KV head, as kv_tile.h lays them out.
struct KvTile {
  const void* keys = nullptr;
  const void* values = nullptr;
};

inline constexpr int kSplitTiles = kAttentionSplit / 16;
// Query vectors (a row's head each) that one call takes: four rows of a group of three heads, as
// many as AVX-512 has registers for.
inline constexpr int kQueriesAtOnce = 12;
// Up to this many vectors wait for memory rather than for arithmetic.
inline constexpr int kFewQueries = 6;

// What a split leaves of a vector, and what all splits merge to: a slot of value_stride sums of
// exp(score - best) * value, then best (the largest score) and total (the sum of exp(score -
// best)).
inline constexpr int kSlotExtra = 2;

// Room of a packed query vector: D floats, or for q8_0 as many 15-bit codes and a scale for 32.
inline constexpr int64_t PackedQueryBytes(int head_dim) { return int64_t{4} * head_dim; }

// Query vectors of one KV head against the positions of one split.
struct SplitArgs {
  KvTileShape shape;
  KvTile tiles[kSplitTiles];
  // The keys of the split that the thread attends next, or null: brought nearer meanwhile, where
  // vectors are few.
  const std::byte* ahead[kSplitTiles] = {};
  float scale = 0.0f;
  int count = 0;                       // vectors, at most kQueriesAtOnce
  const std::byte* queries = nullptr;  // as pack_queries leaves them
  // Vector v sees positions [begins[v], ends[v]) of the split; its slot is left as it is where
  // there are none.
  int begins[kQueriesAtOnce], ends[kQueriesAtOnce];
  float* slots[kQueriesAtOnce];  // out
};

// A row of Backend::AddResidualNorm.
struct ResidualNormRow {
  float* residual = nullptr;
  const float* const* terms = nullptr;
  size_t term_count = 0;
  int64_t at = 0;  // of the row in each term
  float keep = 1.0f;
  const float* post_norm = nullptr;
  const float* norm = nullptr;
  float eps = 0.0f;
  int64_t n = 0;
  float* out = nullptr;
};

struct CpuKernels {
  const char* isa;
  const char* title;  // the same for people
  // Ops of up to this many tokens multiply codes in bytes (QuantisedRows::bytes).
  int byte_tokens;

  // Rows [begin, end) of x (T, cols); column 0 is element `lead` of the first group.
  void (*quantise)(const float* x, int64_t stride, int64_t cols, int lead, int64_t begin,
                   int64_t end, const QuantisedRows& out);
  void (*matmul)(const MatMulArgs& args, const PanelPart& part, const MatMulRange& range);
  // One row of n values each.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
  void (*add_residual)(float* residual, const float* delta, float keep, const float* post_norm,
                       float eps, int64_t n);
  void (*add_residual_norm)(const ResidualNormRow& row);
  void (*gated)(const float* gate, const float* up, GatedKind kind, int64_t n, float* out);
  // Rotates one head by cos and sin (D / 2).
  void (*rotate)(float* head, const float* cos, const float* sin, int head_dim, bool interleaved);
  // One position's key (D) and value (D) into its lane of a tile; the value zero-filled.
  void (*store_key)(const KvTileShape& shape, const float* key, void* tile, int lane);
  void (*store_value)(const KvTileShape& shape, const float* value, void* tile, int lane);
  // Up to kQueriesAtOnce vectors (D) each, in the form and order that attend_split reads them in:
  // PackedQueryBytes(D) each.
  void (*pack_queries)(const KvTileShape& shape, const float* const* queries, int count,
                       std::byte* packed);
  void (*attend_split)(const SplitArgs& args);
  // Merges a later split into each of up to 16 slots.
  void (*merge_splits)(float* const* slots, const float* const* later, int count, int value_stride);
  float (*sum_floats)(const float* values, int64_t n);  // n a multiple of 64: for read_bandwidth.h
};

const CpuKernels& KernelsAvx2();
const CpuKernels& KernelsAvxVnni();
const CpuKernels& KernelsAvx512();

}  // namespace echelon::cpu
