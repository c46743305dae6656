#pragma once
// The kernels' launchers: one function an op, all pointers device memory, all work on `stream`.
// Plain C++: the backend includes this and no CUDA header. Shapes as in kernels/backend.h.

#include <cstdint>
#include <functional>

#include "kernels/backend.h"
#include "kernels/cuda/cache_layout.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/weight_layout.h"
#include "kernels/threshold_math.h"

namespace echelon::cuda {

struct Rows {  // a Tensor's data, as kernels take it
  float* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;
  Rows() = default;
  Rows(const Tensor& t) : data(t.data), rows(t.rows), cols(t.cols), stride(t.stride) {}  // NOLINT
};

// Rows as products take them (split_rows.cuh), by tiles of 8: for a tile and group, first the
// larger then the smaller bfloat16 parts, a lane's chunk of 8 (weight_layout.h) after the other.
inline constexpr int kTokenTile = 8;
inline constexpr int64_t kSplitTileBytes = 2 * kTokenTile * kGroup * 2;
struct SplitRows {
  char* pairs = nullptr;    // (tiles, groups, kSplitTileBytes)
  float* totals = nullptr;  // (tiles, groups, 8): sums of a group
  int64_t rows = 0, groups = 0;
  ECHELON_HD int64_t Tiles() const { return (rows + kTokenTile - 1) / kTokenTile; }
  int64_t PairBytes() const { return Tiles() * groups * kSplitTileBytes; }
  int64_t Bytes() const {
    return PairBytes() + Tiles() * groups * kTokenTile * static_cast<int64_t>(sizeof(float));
  }
};

// Ops that make a product's rows store them in this form too, where `split` is not empty.
void LaunchRmsNorm(Stream stream, Rows x, const float* weight, float eps, Rows out,
                   const SplitRows& split);
// Several terms of a sum, added in their order; a rank of a group brings one.
inline constexpr int kTermsMax = 16;
// residual = residual * keep + (post_norm ? RmsNorm(sum) : sum), where sum = delta + more[0] + ...;
// where there is a norm, out = RmsNorm(residual, norm). keep 0: the residual is not read, and may
// be one of the terms.
struct ResidualParams {
  Rows residual, delta;
  float keep;
  const float* post_norm;  // or null
  float eps;
  const float* norm;  // or null
  Rows out;
  SplitRows split;
  const float* more[kTermsMax - 1] = {};  // (T, D) each, its rows one behind the other
  int more_count = 0;
};
void LaunchAddResidual(Stream stream, const ResidualParams& params);
// out = terms[0] + terms[1] + ... in this order; out may be one of them.
struct SumParams {
  const float* terms[kTermsMax];
  int term_count;
  int64_t count;
  float* out;
};
void LaunchSum(Stream stream, const SumParams& params);
void LaunchGated(Stream stream, Rows gate_up, GatedKind kind, Rows out, const SplitRows& split);
void LaunchGatherRows(Stream stream, Rows x, const int32_t* rows, Rows out);

// out row t = row ids[t] - row_begin of the table, times scale, where it is in [0, table_rows).
struct EmbedParams {
  const int32_t* ids;       // below 0: a DrawnId
  const DrawnToken* drawn;  // what such ids name
  const PartView* parts;    // device memory
  int part_count;
  int64_t table_rows;
  int32_t row_begin;
  float scale;
  Rows out;
};
void LaunchEmbed(Stream stream, const EmbedParams& params);

// x's first column stands `lead` elements into the first group.
void LaunchSplitRows(Stream stream, Rows x, int32_t lead, const SplitRows& to);

// out (T, part.rows) = x (T, K) . part^T + bias (part.rows) or null.
void LaunchMatMul(Stream stream, int multiprocessors, const PartView& part, const SplitRows& x,
                  const float* bias, Rows out);

// out (T, F) = act(gate) * up, of gate_up (2 F, K) . x: rows of gate, then of up, in one part
// without lead; F a multiple of kGroup. The bits of LaunchMatMul and LaunchGated.
struct GatedMatMulParams {
  PartView gate_up;
  SplitRows x;
  bool silu;
  Rows out;
  SplitRows split;  // of out; other memory than x
};
inline constexpr int64_t kGatedMatMulRowsMax = 2 * kTokenTile;  // more are quicker apart
// Not of float32: two groups of a block's tiles would not fit into shared memory.
constexpr bool HasGatedMatMul(Packing packing) { return packing != Packing::kF32; }
void LaunchGatedMatMul(Stream stream, const GatedMatMulParams& params);

// Where a batch's rows are, in device memory: BatchRows and the cache they are in.
struct BatchView {
  const int32_t* positions;
  const int32_t* sequences;
  const int32_t* page_begin;
  const int32_t* pages;
};

struct RopeParams {
  Rows qkv;
  int heads, kv_heads, head_dim;
  const float* query_norm;
  const float* key_norm;
  float norm_eps;
  const double* inverse_frequency;  // (head_dim / 2)
  bool interleaved;
  BatchView batch;
  CacheView cache;
};
void LaunchRopeAppend(Stream stream, const RopeParams& params);

// What a row of q sees: places [first, end) of its sequence's pages.
struct AttentionRow {
  int32_t first, end;
  int32_t partial;    // of the row's first split, where its splits have partial results
  int32_t continued;  // 1: behind what `states` holds for the row
};
// Rows [row, row + count) of q, of one sequence, at the places [first, end) that any of them sees.
struct AttentionUnit {
  int32_t row, count;  // row -1: no unit
  int32_t first, end;
};

struct AttentionParams {
  Rows q;
  int heads, head_dim, head_begin, group, kv_begin;
  float scale;
  const AttentionRow* rows;  // of q
  const AttentionUnit* units;
  int64_t unit_count;
  BatchView batch;
  CacheView cache;
  Rows partials;  // (P, H * (D + 2)), of units within one split
  Rows out;       // (T, H * D), of whole units; or no data: states are written
  Rows states;    // (T, H * (D + 2))
};
// Units within one split each; the splits of row t become partial rows rows[t].partial, + 1, ...
void LaunchAttendSplits(Stream stream, const AttentionParams& params);
// Units that hold all that their rows see: splits are merged in ascending order at once, with the
// bits of LaunchAttendSplits and LaunchMerge. Caches on the tensor cores only.
void LaunchAttendWhole(Stream stream, const AttentionParams& params);
// The rows of q that fit a unit of either.
int TokensOfSplitUnit(const CacheView& cache, int group);
int TokensOfWholeUnit(const CacheView& cache, int group);  // 0: there are none

// Row t merges partial rows list[begin[t]], ... list[begin[t + 1] - 1] (list null: the row itself
// is the number) in this order; where continued[t] is set, behind what `states` holds for the row.
struct MergeParams {
  Rows partials;             // (P, H * (D + 2))
  const int32_t* begin;      // (T + 1)
  const int32_t* list;       // or null
  const int32_t* row_of;     // (T) or null: row t's place in out or states; -1: no row
  const int32_t* continued;  // (T) or null: none is
  int64_t rows;
  int heads, head_dim;
  Rows out;         // (T, H * D), or no data: states are written
  Rows states;      // (T, H * (D + 2))
  SplitRows split;  // of out, where a head is whole groups
};
void LaunchMerge(Stream stream, const MergeParams& params);

// A token for each of `count` rows of logits, of which this rank has the columns from `first` on.
// The ranks of a vocabulary never pass logits, but what they found in the slices of their parts: it
// lies as (ranks, count, slice_count), where each rank fills its own part.
inline constexpr int64_t kDrawSlice = 4096;  // 32 blocks for a vocabulary of 131,072
// The best token of a slice by its logit, or by its draw.
struct DrawSlice {
  double score;
  int32_t id;
  float raw;  // its logit before any change
};
// What log-probabilities are made of, of raw logits.
struct ScoreSlice {
  uint64_t mass;
  DrawnToken best[kDrawnBestMax];
};
// What the rounds of a row's searches for the least logit that top_k (0) and top_p (1) leave have
// found.
struct DrawSearch {
  struct Found {
    uint64_t target = 0;
    uint32_t prefix = 0;
    bool reached = true;
  };
  Found before[2][kSearchRounds];
};
struct DrawParams {
  Rows logits;
  int64_t first;
  int rank, ranks;
  const DrawRow* rows;
  int64_t count, slice_count;  // slices of the greatest part
  DrawSlice* maxima;
  DrawSlice* draws;      // or null where all rows are greedy, no token known
  bool searches_by[2];   // whether any row does
  uint64_t* sums;        // (2, kSearchRounds, ranks, count, kDigits), or null where no row searches
  DrawSearch* searches;  // (count)
  DrawnToken* drawn;     // (count); before: what DrawnIds name
  const LogitChange* changes;  // or null, then raw too
  DrawnToken* raw;             // of each change the token and its logit before; id -1: of no token
                               // of this part
  ScoreSlice* slice_scores;    // or null, then scores too
  DrawnScores* scores;         // (count)
};
// Brings every rank's `bytes` of `all` to every rank. None: there is one rank.
using DrawGather = std::function<void(void* all, size_t bytes)>;
// `launch` false: nothing is launched, but all is gathered as else.
void LaunchDraw(Stream stream, const DrawParams& params, bool launch, const DrawGather& gather);
// Parts of it: scores of raw logits, of which all slices' maxima are there: first of the slices,
// then of the rows.
void LaunchSliceScores(Stream stream, const DrawParams& params);
void LaunchRowScores(Stream stream, const DrawParams& params);

// Sums `bytes` (a multiple of 16) of memory into *sink: how fast it can be read.
void LaunchReadAll(Stream stream, int multiprocessors, const void* memory, size_t bytes,
                   float* sink);

}  // namespace echelon::cuda
