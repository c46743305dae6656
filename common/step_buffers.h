#pragma once
// What a rank computes a step in: the shapes of its float buffers, before anything is allocated.
// The worker allocates by them (worker/decoder.h, worker/sequence_parallel.h), the planner adds
// them up. Pure functions; rows, elements, bytes.

#include <cstdint>

#include "common/model_config.h"
#include "common/rank_part.h"

namespace echelon {

// A matrix of floats.
struct BufferShape {
  int64_t rows = 0, cols = 0;
  int64_t bytes() const { return rows * cols * int64_t{sizeof(float)}; }
};

// How many rows pass through the widest buffers together. A CPU's stay in its caches: an MLP's 128
// rows of 3072 floats, 1.5 MiB, in a second-level cache between the two products, as the 10 MiB of
// a whole step of 512 would not; logits so that their memory does not grow with the batch. A device
// reads a weight anew for every tile, and fills its multiprocessors with rows: a default step's 512
// pass the MLP at once, and the head is read once for 64 streams of any vocabulary (160 MiB at
// 655,360 tokens).
struct RowTiles {
  int64_t mlp_rows_max;
  int64_t logit_bytes_max;
};
inline constexpr RowTiles kHostTiles = {128, int64_t{16} << 20};
inline constexpr RowTiles kDeviceTiles = {512, int64_t{160} << 20};

// What bounds a step.
struct StepBounds {
  int64_t step_tokens_max = 512;  // rows of all ranks together
  int64_t sequences_max = 64;
  int64_t page_tokens = 16;
  int sp = 1;
  RowTiles tiles = kHostTiles;
};

// Rows of a step that one sp rank computes at most: those whose pages it keeps. A sequence's rows
// follow each other, so that of every round of sp pages one is a rank's; but each sequence may
// begin at a page of the same rank. 512 rows of 64 sequences may all be one rank's, of 8192 rows
// over 4 ranks 2817.
int64_t RankRowsMax(const StepBounds& bounds);

// Logits are made so many rows at a time. The same on all ranks of a stage, who draw from these
// rows together.
int64_t LogitRows(const RankPart& part, const RowTiles& tiles);

struct DecoderBuffers {
  int streams = 0;          // of the residual: two where it is sent on while the next step runs
  int outputs = 0;          // of sub-blocks, of each stream: those in flight and the one at hand
  BufferShape stream;       // (R, d_model): each residual, each output, normed, second output
  BufferShape qkv;          // (R, (H + 2 kv_heads) * head_dim)
  BufferShape context;      // (R, H * head_dim)
  BufferShape gate_up;      // (some rows, 2 F)
  BufferShape head_stream;  // (logit rows, d_model): gathered, normed; none but on the last stage
  BufferShape logits;       // (logit rows, vocabulary part)
  int64_t bytes() const;
};
// R = rows_max, of a step, that the rank computes.
DecoderBuffers DecoderBuffersOf(const ModelConfig& model, const RankPart& part, int64_t rows_max,
                                const RowTiles& tiles);

// Sequence parallelism, N ranks; T rows of a step, of which a rank computes R.
struct SharingBuffers {
  BufferShape queries;           // (R, H * D): those to send; the same again of rows that pass keys
  BufferShape foreign_queries;   // (T, H * D)
  BufferShape foreign_partials;  // (T, H * (D + 2))
  BufferShape copied_partials;   // (kCopiedRowsMax, H * (D + 2))
  // (N * R + kCopiedRowsMax, H * (D + 2)): every own row may have a partial of every rank, copied
  // rows one more. They are merged in the order of the parts, which is not that of their arrival.
  BufferShape partials;
  BufferShape collected;  // (logit rows, d_model): on the last stage
  int64_t bytes() const;
};
SharingBuffers SharingBuffersOf(const ModelConfig& model, const RankPart& part,
                                const StepBounds& bounds);

// Both: all float buffers of a rank.
int64_t StepBufferBytes(const ModelConfig& model, const RankPart& part, const StepBounds& bounds);

// Messages round the ring hold whole splits of so many places (kAttentionSplit of the kernels), so
// that a row's partial can be continued.
inline constexpr int kRingSplit = 256;
// Messages of a layer that a rank holds: one is attended while the next leaves and another comes.
inline constexpr int kRingMessages = 3;
// Pages of a rank in one message round the ring: at most `tokens` places, no more than a sequence
// of `context_max` can fill, whole splits.
int RingPages(int sp, int page_tokens, int tokens, int64_t context_max);

}  // namespace echelon
