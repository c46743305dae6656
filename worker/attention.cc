#include "worker/attention.h"

#include "common/model/rope.h"

namespace echelon {

AttentionBlock::AttentionBlock(const ModelConfig& model, const RankPart& part, Backend& backend,
                               KvCache& cache, SequenceParallel* sharing)
    : model_(model), part_(part), backend_(backend), cache_(cache), sharing_(sharing) {
  for (int64_t l = part.layers.begin; l < part.layers.end; ++l) {
    inverse_frequencies_.push_back(RopeInverseFrequencies(model.layers[l], model.head_dim));
  }
}

void AttentionBlock::Run(int layer, const LayerWeights& w, Tensor x, const BatchRows& rows,
                         int part, const AttentionScratch& scratch, Tensor out) {
  const int heads = part_.heads();
  const Tensor qkv = scratch.qkv.Rows(0, x.rows);
  const Tensor context = scratch.context.Rows(0, x.rows);

  QkvArgs append;
  append.qkv = qkv;
  append.heads = heads;
  append.kv_heads = part_.kv_heads();
  append.head_dim = model_.head_dim;
  append.query_norm = w.query_norm.get();
  append.key_norm = w.key_norm.get();
  append.norm_eps = model_.norm_eps;
  append.rope = {inverse_frequencies_[layer], model_.rope_pairs == RopePairs::kInterleaved};
  append.rows = rows;
  append.cache = &cache_;
  append.layer = layer;

  AttentionArgs attend;
  attend.q = qkv.Cols(0, int64_t{heads} * model_.head_dim);
  attend.out = context;
  attend.heads = heads;
  attend.head_dim = model_.head_dim;
  attend.head_begin = static_cast<int>(part_.shard.heads.begin);
  attend.group = model_.n_heads / model_.n_kv_heads;
  attend.kv_begin = static_cast<int>(part_.shard.kv_heads.begin);
  attend.scale = model_.attention_scale;
  attend.window = model_.layers[part_.layers.begin + layer].window;
  attend.rows = rows;
  attend.cache = &cache_;
  attend.layer = layer;

  backend_.MatMul(x, *w.qkv, w.qkv_bias.get(), qkv);
  backend_.Announce(*w.attention_out);
  backend_.RopeAppend(append);
  if (sharing_ != nullptr) {
    sharing_->Attend(attend, part);
  } else {
    backend_.Attention(attend);
  }
  backend_.MatMul(context, *w.attention_out, nullptr, out);
}

}  // namespace echelon
