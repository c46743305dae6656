#include "common/model/tensor_names.h"

#include "common/check.h"
#include "common/strings.h"

namespace echelon {

namespace {

struct Row {
  TensorRole role;
  std::string_view gguf;
  std::string_view hf;
  std::string_view hf_post_norms;  // where a model with four norms a layer says it otherwise
};

using R = TensorRole;
constexpr Row kRows[] = {
    {R::kEmbedding, "token_embd.weight", "embed_tokens.weight", ""},
    {R::kLmHead, "output.weight", "lm_head.weight", ""},
    {R::kFinalNorm, "output_norm.weight", "norm.weight", ""},
    {R::kAttentionNorm, "attn_norm.weight", "input_layernorm.weight", ""},
    {R::kPostAttentionNorm, "post_attention_norm.weight", "", "post_attention_layernorm.weight"},
    {R::kMlpNorm, "ffn_norm.weight", "post_attention_layernorm.weight",
     "pre_feedforward_layernorm.weight"},
    {R::kPostMlpNorm, "post_ffw_norm.weight", "", "post_feedforward_layernorm.weight"},
    {R::kQueryNorm, "attn_q_norm.weight", "self_attn.q_norm.weight", ""},
    {R::kKeyNorm, "attn_k_norm.weight", "self_attn.k_norm.weight", ""},
    {R::kQuery, "attn_q.weight", "self_attn.q_proj.weight", ""},
    {R::kKey, "attn_k.weight", "self_attn.k_proj.weight", ""},
    {R::kValue, "attn_v.weight", "self_attn.v_proj.weight", ""},
    {R::kQueryBias, "attn_q.bias", "self_attn.q_proj.bias", ""},
    {R::kKeyBias, "attn_k.bias", "self_attn.k_proj.bias", ""},
    {R::kValueBias, "attn_v.bias", "self_attn.v_proj.bias", ""},
    {R::kAttentionOut, "attn_output.weight", "self_attn.o_proj.weight", ""},
    {R::kGate, "ffn_gate.weight", "mlp.gate_proj.weight", ""},
    {R::kUp, "ffn_up.weight", "mlp.up_proj.weight", ""},
    {R::kDown, "ffn_down.weight", "mlp.down_proj.weight", ""},
};
static_assert(std::size(kRows) == kTensorRoles);

}  // namespace

bool IsGlobal(TensorRole role) {
  return role == R::kEmbedding || role == R::kLmHead || role == R::kFinalNorm;
}

bool HasRole(const ModelConfig& config, TensorRole role) {
  switch (role) {
    case R::kLmHead:
      return !config.tied_embeddings;
    case R::kPostAttentionNorm:
    case R::kPostMlpNorm:
      return config.post_norms;
    case R::kQueryNorm:
    case R::kKeyNorm:
      return config.qk_norm;
    case R::kQueryBias:
    case R::kKeyBias:
    case R::kValueBias:
      return config.qkv_bias;
    default:
      return true;
  }
}

TensorShape ShapeOf(const ModelConfig& config, TensorRole role) {
  const int64_t d = config.d_model, ff = config.d_ff, head = config.head_dim;
  const int64_t q = config.n_heads * head, kv = config.n_kv_heads * head;
  switch (role) {
    case R::kEmbedding:
    case R::kLmHead:
      return {config.vocab_size, d};
    case R::kFinalNorm:
    case R::kAttentionNorm:
    case R::kPostAttentionNorm:
    case R::kMlpNorm:
    case R::kPostMlpNorm:
      return {1, d};
    case R::kQueryNorm:
    case R::kKeyNorm:
      return {1, head};
    case R::kQuery:
      return {q, d};
    case R::kKey:
    case R::kValue:
      return {kv, d};
    case R::kQueryBias:
      return {1, q};
    case R::kKeyBias:
    case R::kValueBias:
      return {1, kv};
    case R::kAttentionOut:
      return {d, q};
    case R::kGate:
    case R::kUp:
      return {ff, d};
    case R::kDown:
      return {d, ff};
  }
  CHECK_MSG(false, "unknown role");
  return {};
}

std::string TensorName(const ModelConfig& config, NameScheme scheme, TensorRole role, int layer) {
  const Row& row = kRows[static_cast<size_t>(role)];
  CHECK(row.role == role);
  const bool gguf = scheme == NameScheme::kGguf;
  const bool other = config.post_norms && !row.hf_post_norms.empty();
  const std::string_view name = gguf ? row.gguf : other ? row.hf_post_norms : row.hf;
  if (IsGlobal(role)) return std::string(name);
  return StrCat(gguf ? "blk." : "layers.", layer, ".", name);
}

}  // namespace echelon
