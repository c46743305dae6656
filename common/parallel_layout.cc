#include "common/parallel_layout.h"

#include <algorithm>

#include "common/check.h"
#include "common/nearest_layouts.h"
#include "common/strings.h"

namespace echelon {

Range SplitEvenly(int64_t total, int parts, int index, int64_t unit) {
  CHECK(total >= 0 && parts > 0 && unit > 0 && 0 <= index && index < parts);
  const int64_t units = (total + unit - 1) / unit;
  const int64_t base = units / parts;
  const int64_t longer = units % parts;  // the first `longer` parts have one unit more
  const int64_t begin = base * index + std::min<int64_t>(index, longer);
  const int64_t end = begin + base + (index < longer ? 1 : 0);
  return {std::min(begin * unit, total), std::min(end * unit, total)};
}

Range SplitByShares(int64_t total, std::span<const int> shares, int index, int64_t unit) {
  const auto parts = static_cast<int64_t>(shares.size());
  const int64_t units = (total + unit - 1) / unit;
  if (units < parts) return SplitEvenly(total, static_cast<int>(parts), index, unit);
  int64_t sum = 0;
  for (const int share : shares) sum += share;
  int64_t begin = 0, end = 0, before = 0;
  for (int i = 0; i <= index; ++i) {
    CHECK(shares[i] > 0);
    begin = end;
    before += shares[i];
    const int64_t nearest = (2 * units * before + sum) / (2 * sum);
    end = std::clamp(nearest, begin + 1, units - (parts - 1 - i));
  }
  return {std::min(begin * unit, total), std::min(end * unit, total)};
}

RankPosition ParallelLayout::PositionOf(int rank) const {
  CHECK(0 <= rank && rank < world());
  return {rank % tp, rank / (tp * sp), rank / tp % sp};
}

int ParallelLayout::RankOf(RankPosition p) const { return (p.pp * sp + p.sp) * tp + p.tp; }

Status ParallelLayout::Validate(const ModelConfig& model) const {
  static constexpr int kShareMax = 1'000'000;
  const auto bad_axis = [](const char* axis, int value) {
    return InvalidArgument(StrCat(axis, " = ", value, ": must be 1 to ", kAxisMax), axis);
  };
  if (tp < 1 || tp > kAxisMax) return bad_axis("tp", tp);
  if (pp < 1 || pp > kAxisMax) return bad_axis("pp", pp);
  if (sp < 1 || sp > kAxisMax) return bad_axis("sp", sp);
  RETURN_IF_ERROR(CheckLayoutLimits(*this, model, LimitsOf(model, 0, /*page_tokens=*/1)));
  if (!shard_shares.empty() && static_cast<int>(shard_shares.size()) != tp) {
    return InvalidArgument(StrCat("shard_shares: ", shard_shares.size(), " shares; tp is ", tp),
                           "shard_shares");
  }
  for (const int share : shard_shares) {
    if (share < 1 || share > kShareMax) {
      return InvalidArgument(StrCat("shard_shares: ", share, " is not 1 to ", kShareMax),
                             "shard_shares");
    }
  }
  if (layers_per_stage.empty()) return {};
  int64_t sum = 0;
  for (const int layers : layers_per_stage) {
    if (layers < 1)
      return InvalidArgument("layers_per_stage: every stage needs a layer", "layers_per_stage");
    sum += layers;
  }
  if (static_cast<int>(layers_per_stage.size()) != pp || sum != model.n_layers()) {
    return InvalidArgument(
        StrCat("layers_per_stage: ", layers_per_stage.size(), " stages with ", sum,
               " layers; pp is ", pp, " and the model has ", model.n_layers()),
        "layers_per_stage");
  }
  return {};
}

namespace {

// Weights read per token, in those of a layer.
int64_t LayerCost(const ModelConfig& m) {
  const int64_t attention = int64_t{m.d_model} * m.head_dim * (2 * m.n_heads + 2 * m.n_kv_heads);
  return attention + 3 * int64_t{m.d_model} * m.d_ff;
}

// Layers per stage with the smallest greatest cost; the head belongs to the last stage. The last
// stage takes what fits beside the head under the cost of `most` layers; the others share the rest.
std::vector<int> BalancedStages(const ModelConfig& m, int stages) {
  const int layers = m.n_layers();
  if (stages == 1) return {layers};
  const int64_t layer = LayerCost(m);
  const auto head = static_cast<int64_t>(m.head_cost * m.vocab_size * m.d_model);
  for (int most = (layers + stages - 1) / stages; most <= layers; ++most) {
    const auto beside_head = static_cast<int>((most * layer - head) / layer);
    const int last = std::clamp(beside_head, 1, layers - (stages - 1));
    if (most * (stages - 1) + last < layers) continue;
    std::vector<int> counts(stages, last);
    for (int s = 0; s + 1 < stages; ++s) {
      counts[s] = static_cast<int>(SplitEvenly(layers - last, stages - 1, s).size());
    }
    return counts;
  }
  CHECK_MSG(false, "a split always exists: pp <= layers");
  return {};
}

}  // namespace

Range LayersOfStage(const ModelConfig& model, const ParallelLayout& layout, int stage) {
  CHECK(0 <= stage && stage < layout.pp);
  const std::vector<int> counts =
      layout.layers_per_stage.empty() ? BalancedStages(model, layout.pp) : layout.layers_per_stage;
  int64_t begin = 0;
  for (int s = 0; s < stage; ++s) begin += counts[s];
  return {begin, begin + counts[stage]};
}

TensorShard ShardOf(const ModelConfig& model, const ParallelLayout& layout, int tp_index) {
  const int64_t group = model.n_heads / model.n_kv_heads;
  const auto part = [&](int64_t total, int64_t unit) {
    return layout.shard_shares.empty() ? SplitEvenly(total, layout.tp, tp_index, unit)
                                       : SplitByShares(total, layout.shard_shares, tp_index, unit);
  };
  TensorShard shard;
  if (layout.tp <= model.n_kv_heads) {
    shard.kv_heads = part(model.n_kv_heads, 1);
    shard.heads = {shard.kv_heads.begin * group, shard.kv_heads.end * group};
  } else {
    shard.heads = part(model.n_heads, 1);
    shard.kv_heads = {shard.heads.begin / group, (shard.heads.end + group - 1) / group};
  }
  shard.ff = part(model.d_ff, kFfUnit);
  shard.vocab = part(model.vocab_size, kVocabUnit);
  return shard;
}

ShardSpec SpecOf(const ModelConfig& model, const TensorShard& shard, TensorRole role) {
  const int64_t d = model.head_dim;
  const Range q{shard.heads.begin * d, shard.heads.end * d};
  const Range kv{shard.kv_heads.begin * d, shard.kv_heads.end * d};
  switch (role) {
    case TensorRole::kEmbedding:
    case TensorRole::kLmHead:
      return {true, false, shard.vocab};
    case TensorRole::kQuery:
      return {true, false, q};
    case TensorRole::kKey:
    case TensorRole::kValue:
      return {true, false, kv};
    case TensorRole::kQueryBias:
      return {false, true, q};
    case TensorRole::kKeyBias:
    case TensorRole::kValueBias:
      return {false, true, kv};
    case TensorRole::kAttentionOut:
      return {false, true, q};
    case TensorRole::kGate:
    case TensorRole::kUp:
      return {true, false, shard.ff};
    case TensorRole::kDown:
      return {false, true, shard.ff};
    case TensorRole::kQueryNorm:
    case TensorRole::kKeyNorm:
      return {false, false, {0, d}};
    case TensorRole::kFinalNorm:
    case TensorRole::kAttentionNorm:
    case TensorRole::kPostAttentionNorm:
    case TensorRole::kMlpNorm:
    case TensorRole::kPostMlpNorm:
      return {false, false, {0, model.d_model}};
  }
  CHECK_MSG(false, "unknown role");
  return {};
}

}  // namespace echelon
