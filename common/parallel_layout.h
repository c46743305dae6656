#pragma once
// ParallelLayout: which rank does what, as pure functions of the layout and the ModelConfig.
// World = pp x sp x tp, tp fastest: rank = (pp_index * sp + sp_index) * tp + tp_index.
// Counts need not divide: shards are ranges of KV-head groups (query heads with their KV head) and
// of FFN columns; when tp exceeds the KV heads, query heads are split and KV heads replicated.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/model_config.h"
#include "common/result.h"

namespace echelon {

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool empty() const { return begin >= end; }
  bool operator==(const Range&) const = default;
};

// Part `index` of [0, total) cut into `parts` contiguous pieces whose sizes differ by at most one
// unit of `unit` elements (the last piece takes a ragged rest). total >= 0, parts > 0, unit > 0.
Range SplitEvenly(int64_t total, int parts, int index, int64_t unit = 1);
// The same, the pieces being to each other as `shares` are, as near as whole units allow; each has
// a unit at least (evenly where there are too few). shares > 0.
Range SplitByShares(int64_t total, std::span<const int> shares, int index, int64_t unit = 1);

struct RankPosition {
  int tp = 0, pp = 0, sp = 0;
};

struct ParallelLayout {
  static constexpr int kAxisMax = 4096;  // ranks of each axis

  int tp = 1, pp = 1, sp = 1;
  // Layers of each stage; given by hand (sum = n_layers) or empty for the balanced split.
  std::vector<int> layers_per_stage;
  // How the tensor-parallel ranks share each layer: by their speeds, one entry each; empty: evenly.
  std::vector<int> shard_shares;

  int world() const { return tp * pp * sp; }
  RankPosition PositionOf(int rank) const;
  int RankOf(RankPosition position) const;
  // Refuses what the model cannot be cut into, naming the limit (more stages than layers, ...).
  Status Validate(const ModelConfig& model) const;
};

// The layers of pipeline stage `stage`: balanced by cost in bytes read per token, embedding (none)
// and LM head (vocab_size * d_model * head_cost) counted.
Range LayersOfStage(const ModelConfig& model, const ParallelLayout& layout, int stage);

// What tensor-parallel rank `tp_index` holds of every layer.
struct TensorShard {
  Range heads;     // query heads
  Range kv_heads;  // KV heads those query heads read (may overlap a neighbour's)
  Range ff;        // FFN columns, multiples of kFfUnit but the last
  Range vocab;     // rows of embedding and LM head, multiples of kVocabUnit but the last
};
inline constexpr int64_t kFfUnit = 32;     // one block of the 32-element formats
inline constexpr int64_t kVocabUnit = 64;  // vocabulary blocks of the sampler stay whole
TensorShard ShardOf(const ModelConfig& model, const ParallelLayout& layout, int tp_index);

// Every tensor a decoder may have. Which part of it a rank reads is one table (SpecOf).
enum class TensorRole : uint8_t {
  kEmbedding,
  kLmHead,     // rows = vocabulary
  kFinalNorm,  // norms: replicated
  kAttentionNorm,
  kPostAttentionNorm,
  kMlpNorm,
  kPostMlpNorm,
  kQueryNorm,
  kKeyNorm,
  kQuery,
  kKey,
  kValue,  // rows = heads * head_dim
  kQueryBias,
  kKeyBias,
  kValueBias,     // elements = heads * head_dim (1 row)
  kAttentionOut,  // columns = heads * head_dim
  kGate,
  kUp,    // rows = FFN columns
  kDown,  // columns = FFN columns
};
struct ShardSpec {
  bool by_rows = false;     // cut along rows (outputs)
  bool by_columns = false;  // cut along columns (inputs): partial sums, all-reduced
  Range range;              // in elements of that axis; the whole axis where nothing is cut
};
ShardSpec SpecOf(const ModelConfig& model, const TensorShard& shard, TensorRole role);

}  // namespace echelon
