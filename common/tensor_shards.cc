#include "common/tensor_shards.h"

#include "common/check.h"
#include "common/strings.h"

namespace echelon {

namespace {

struct RoleInfo {
  std::string_view name;
  int64_t rows, cols;  // of the whole tensor; vectors have one row
};

RoleInfo Describe(const ModelConfig& m, TensorRole role) {
  const int64_t d = m.d_model;
  const int64_t q = int64_t{m.n_heads} * m.head_dim;
  const int64_t kv = int64_t{m.n_kv_heads} * m.head_dim;
  switch (role) {
    case TensorRole::kEmbedding:
      return {"embedding", m.vocab_size, d};
    case TensorRole::kLmHead:
      return {"LM head", m.vocab_size, d};
    case TensorRole::kFinalNorm:
      return {"final norm", 1, d};
    case TensorRole::kAttentionNorm:
      return {"attention norm", 1, d};
    case TensorRole::kPostAttentionNorm:
      return {"norm after attention", 1, d};
    case TensorRole::kMlpNorm:
      return {"MLP norm", 1, d};
    case TensorRole::kPostMlpNorm:
      return {"norm after the MLP", 1, d};
    case TensorRole::kQueryNorm:
      return {"query norm", 1, m.head_dim};
    case TensorRole::kKeyNorm:
      return {"key norm", 1, m.head_dim};
    case TensorRole::kQuery:
      return {"query projection", q, d};
    case TensorRole::kKey:
      return {"key projection", kv, d};
    case TensorRole::kValue:
      return {"value projection", kv, d};
    case TensorRole::kQueryBias:
      return {"query bias", 1, q};
    case TensorRole::kKeyBias:
      return {"key bias", 1, kv};
    case TensorRole::kValueBias:
      return {"value bias", 1, kv};
    case TensorRole::kAttentionOut:
      return {"attention output", d, q};
    case TensorRole::kGate:
      return {"MLP gate", m.d_ff, d};
    case TensorRole::kUp:
      return {"MLP up", m.d_ff, d};
    case TensorRole::kDown:
      return {"MLP down", d, m.d_ff};
  }
  CHECK_MSG(false, "unknown role");
  return {};
}

// Bytes of whole blocks that cover the columns.
uint64_t BytesOf(const TensorInfo& info, Range rows, Range cols) {
  if (rows.empty() || cols.empty()) return 0;
  const TensorFormatInfo& format = InfoOf(info.format);
  const int64_t first = cols.begin / format.block_elements;
  const int64_t last = (cols.end + format.block_elements - 1) / format.block_elements;
  return static_cast<uint64_t>(rows.size()) * (last - first) * format.block_bytes;
}

}  // namespace

Result<TensorShardRef> TensorShards::Find(TensorRole role, int layer) const {
  const RoleInfo expected = Describe(model_, role);
  const TensorInfo* info = checkpoint_.Find(role, layer);
  if (info == nullptr) {
    return Corrupt(StrCat("checkpoint: layer ", layer, " has no tensor for its ", expected.name));
  }
  if (info->rows != expected.rows || info->cols != expected.cols) {
    return Corrupt(StrCat("tensor ", info->name, ": ", info->rows, " x ", info->cols,
                          ", the configuration says ", expected.rows, " x ", expected.cols));
  }
  const ShardSpec spec = SpecOf(model_, part_.shard, role);
  TensorShardRef shard;
  shard.info = info;
  shard.rows = spec.by_rows ? spec.range : Range{0, info->rows};
  shard.cols = spec.by_columns ? spec.range : Range{0, info->cols};
  shard.bytes = BytesOf(*info, shard.rows, shard.cols);
  return shard;
}

Result<TensorPiece> TensorShards::Read(const TensorShardRef& shard) const {
  return checkpoint_.Read(*shard.info, shard.rows, shard.cols);
}

TensorRole TensorShards::head_role() const {
  const bool stored = checkpoint_.Find(TensorRole::kLmHead, 0) != nullptr;
  return stored ? TensorRole::kLmHead : TensorRole::kEmbedding;
}

std::vector<TensorShardRef> TensorShards::All() const {
  using enum TensorRole;
  std::vector<TensorShardRef> all;
  const auto add = [&](TensorRole role, int64_t layer) {
    if (checkpoint_.Find(role, static_cast<int>(layer)) == nullptr) return;
    const auto shard = Find(role, static_cast<int>(layer));
    if (shard.ok()) all.push_back(*shard);
  };
  if (part_.first_stage) add(kEmbedding, 0);
  if (model_.post_norms && !part_.first_stage) {
    for (const TensorRole role : {kPostAttentionNorm, kPostMlpNorm}) {
      add(role, part_.layers.begin - 1);
    }
  }
  for (int64_t l = part_.layers.begin; l < part_.layers.end; ++l) {
    for (const TensorRole role :
         {kAttentionNorm, kMlpNorm, kQuery, kKey, kValue, kAttentionOut, kGate, kUp, kDown}) {
      add(role, l);
    }
    if (model_.qk_norm) {
      for (const TensorRole role : {kQueryNorm, kKeyNorm}) add(role, l);
    }
    if (model_.post_norms) {
      for (const TensorRole role : {kPostAttentionNorm, kPostMlpNorm}) add(role, l);
    }
    if (model_.qkv_bias) {
      for (const TensorRole role : {kQueryBias, kKeyBias, kValueBias}) add(role, l);
    }
  }
  if (part_.last_stage) {
    add(kFinalNorm, 0);
    if (!(part_.first_stage && head_role() == kEmbedding)) add(head_role(), 0);
  }
  return all;
}

}  // namespace echelon
