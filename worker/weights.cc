#include "worker/weights.h"

#include <initializer_list>
#include <string>

#include "common/strings.h"
#include "common/tensor_shards.h"
#include "kernels/quant/quant.h"

namespace echelon {

namespace {

using Roles = std::initializer_list<TensorRole>;

// A row vector's values within `cols`.
void AppendFloats(const TensorInfo& info, const TensorPiece& piece, Range cols,
                  std::vector<float>& out) {
  std::vector<float> stored(piece.stored_cols);
  DequantizeRow(info.format, piece.bytes.data(), piece.stored_cols, stored.data());
  const auto first = stored.begin() + (cols.begin - piece.stored_col_begin);
  out.insert(out.end(), first, first + cols.size());
}

class Loader {
 public:
  Loader(const Checkpoint& checkpoint, const ModelConfig& model, const RankPart& part,
         Backend& backend, const LoadProgress& progress)
      : shards_(checkpoint, model, part), backend_(backend), progress_(progress) {
    for (const TensorShardRef& shard : shards_.All()) total_ += shard.bytes;
  }

  // The roles' parts stacked along rows; null where the rank's part is empty.
  Result<std::unique_ptr<Weight>> Matrix(Roles roles, int layer) {
    std::vector<HostMatrix> parts;
    uint64_t bytes = 0;
    for (const TensorRole role : roles) {
      ASSIGN_OR_RETURN(const TensorShardRef shard, shards_.Find(role, layer));
      if (shard.rows.empty() || shard.cols.empty()) continue;
      const TensorPiece piece = PieceOf(*shard.info, shard.rows, shard.cols);
      const int64_t begin = shard.cols.begin - piece.stored_col_begin;
      HostMatrix part = {shard.info->format, piece.rows, piece.stored_cols,        nullptr,
                         piece.row_bytes,    begin,      begin + shard.cols.size()};
      part.read = [this, shard](int64_t from, int64_t to, std::byte* out) {
        return shards_.ReadRows(shard, {from, to}, out);
      };
      parts.push_back(std::move(part));
      bytes += shard.bytes;
    }
    if (parts.empty()) return std::unique_ptr<Weight>();
    ASSIGN_OR_RETURN(std::unique_ptr<Weight> weight, backend_.PackWeight(parts));
    packed_ += weight->bytes();
    Advance(bytes);
    return weight;
  }

  // The roles' vectors one after the other, each value plus `add`.
  Result<DeviceFloats> Floats(Roles roles, int layer, float add = 0.0f) {
    std::vector<float> values;
    for (const TensorRole role : roles) {
      ASSIGN_OR_RETURN(const TensorShardRef shard, shards_.Find(role, layer));
      ASSIGN_OR_RETURN(const TensorPiece piece, shards_.Read(shard));
      AppendFloats(*shard.info, piece, shard.cols, values);
      Advance(shard.bytes);
    }
    for (float& value : values) value += add;
    const size_t bytes = values.size() * sizeof(float);
    ASSIGN_OR_RETURN(std::unique_ptr<DeviceBuffer> buffer, backend_.Allocate(bytes));
    backend_.Upload(values.data(), buffer->data(), bytes);
    backend_.Synchronize();
    packed_ += bytes;
    return DeviceFloats(std::move(buffer), static_cast<int64_t>(values.size()));
  }

  const TensorShards& shards() const { return shards_; }
  uint64_t total() const { return total_; }
  uint64_t packed() const { return packed_; }

 private:
  void Advance(uint64_t bytes) {
    done_ += bytes;
    if (progress_) progress_(done_, total_);
  }

  TensorShards shards_;
  Backend& backend_;
  const LoadProgress& progress_;
  uint64_t done_ = 0;
  uint64_t total_ = 0;
  uint64_t packed_ = 0;
};

Status LoadPostNorms(Loader& load, int layer, float add, LayerWeights& out) {
  ASSIGN_OR_RETURN(out.post_attention_norm,
                   load.Floats({TensorRole::kPostAttentionNorm}, layer, add));
  ASSIGN_OR_RETURN(out.post_mlp_norm, load.Floats({TensorRole::kPostMlpNorm}, layer, add));
  return {};
}

Result<LayerWeights> LoadLayer(Loader& load, const ModelConfig& model, int layer) {
  using enum TensorRole;
  const float add = model.norm_plus_one ? 1.0f : 0.0f;
  LayerWeights out;
  ASSIGN_OR_RETURN(out.attention_norm, load.Floats({kAttentionNorm}, layer, add));
  ASSIGN_OR_RETURN(out.mlp_norm, load.Floats({kMlpNorm}, layer, add));
  if (model.qk_norm) {
    ASSIGN_OR_RETURN(out.query_norm, load.Floats({kQueryNorm}, layer, add));
    ASSIGN_OR_RETURN(out.key_norm, load.Floats({kKeyNorm}, layer, add));
  }
  if (model.post_norms) RETURN_IF_ERROR(LoadPostNorms(load, layer, add, out));
  ASSIGN_OR_RETURN(out.qkv, load.Matrix({kQuery, kKey, kValue}, layer));
  if (model.qkv_bias) {
    ASSIGN_OR_RETURN(out.qkv_bias, load.Floats({kQueryBias, kKeyBias, kValueBias}, layer));
  }
  ASSIGN_OR_RETURN(out.attention_out, load.Matrix({kAttentionOut}, layer));
  ASSIGN_OR_RETURN(out.gate_up, load.Matrix({kGate, kUp}, layer));
  ASSIGN_OR_RETURN(out.down, load.Matrix({kDown}, layer));
  return out;
}

}  // namespace

uint64_t WeightBytes(const Checkpoint& checkpoint, const RankPart& part) {
  uint64_t bytes = 0;
  for (const auto& shard : TensorShards(checkpoint, checkpoint.config(), part).All()) {
    bytes += shard.bytes;
  }
  return bytes;
}

uint64_t TokenBytes(const Weights& weights) {
  const bool rows_only = weights.embedding && weights.embedding != weights.head;
  return weights.bytes - (rows_only ? weights.embedding->bytes() : 0);
}

Result<Weights> LoadWeights(const Checkpoint& checkpoint, const ModelConfig& model,
                            const RankPart& part, uint64_t memory_bytes, Backend& backend,
                            const LoadProgress& progress) {
  Loader load(checkpoint, model, part, backend, progress);
  if (load.total() > memory_bytes) {
    const std::string device = backend.DeviceName();
    Error error = ResourceExhausted(
        StrCat("rank ", part.rank, " (tp ", part.at.tp, ", pp ", part.at.pp, "): its weights need ",
               HumanBytes(static_cast<double>(load.total())), " and it has ",
               HumanBytes(static_cast<double>(memory_bytes)), device.empty() ? "" : " of ", device,
               "; use more ranks (tp, pp), more memory or a checkpoint with fewer bits"));
    error.rank = part.rank;
    return error;
  }
  const float add = model.norm_plus_one ? 1.0f : 0.0f;
  Weights weights;
  if (part.first_stage) {
    ASSIGN_OR_RETURN(weights.embedding, load.Matrix({TensorRole::kEmbedding}, 0));
  }
  if (model.post_norms && !part.first_stage) {
    const int layer = static_cast<int>(part.layers.begin) - 1;
    RETURN_IF_ERROR(LoadPostNorms(load, layer, add, weights.before));
  }
  for (int64_t l = part.layers.begin; l < part.layers.end; ++l) {
    ASSIGN_OR_RETURN(LayerWeights layer, LoadLayer(load, model, static_cast<int>(l)));
    weights.layers.push_back(std::move(layer));
  }
  if (part.last_stage) {
    ASSIGN_OR_RETURN(weights.final_norm, load.Floats({TensorRole::kFinalNorm}, 0, add));
    const TensorRole head = load.shards().head_role();
    if (head == TensorRole::kEmbedding && part.first_stage) {
      weights.head = weights.embedding;
    } else {
      ASSIGN_OR_RETURN(weights.head, load.Matrix({head}, 0));
    }
  }
  weights.bytes = load.packed();
  return weights;
}

}  // namespace echelon
