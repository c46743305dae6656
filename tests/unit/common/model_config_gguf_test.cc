// What GGUF metadata says about a model: values of every family, and refusals of hostile ones.

#include <gtest/gtest.h>

#include <cmath>

#include "common/model/checkpoint.h"
#include "tests/support/clean_error.h"
#include "tests/support/model_builder.h"

namespace echelon {
namespace {

class GgufConfig : public testing::Test {
 protected:
  Result<std::unique_ptr<Checkpoint>> Open(const GgufSpec& spec) {
    WriteFile(path_, spec.Build());
    return OpenCheckpoint(path_);
  }
  ModelConfig ConfigOf(const GgufSpec& spec) {
    auto opened = Open(spec);
    EXPECT_TRUE(opened.ok()) << opened.error().message;
    return (*opened)->config();
  }
  ScratchFolder folder_;
  std::string path_ = folder_ / "model.gguf";
};

void Replace(GgufSpec& spec, const std::string& key, uint32_t value) {
  spec.At(key).type = static_cast<uint32_t>(GgufType::kUint32);
  spec.At(key).bytes = RawBytes(value);
}
void Replace(GgufSpec& spec, const std::string& key, float value) {
  spec.At(key).type = static_cast<uint32_t>(GgufType::kFloat32);
  spec.At(key).bytes = RawBytes(value);
}

TEST_F(GgufConfig, GemmaSlidesInAPattern) {
  TinyModel model{.family = "gemma3", .n_layers = 13, .n_kv_heads = 1};
  const ModelConfig config = ConfigOf(TinyGguf(model));
  for (int i = 0; i < 13; ++i) {
    const bool full = i == 5 || i == 11;
    EXPECT_EQ(config.layers[i].window, full ? 0 : 8) << i;
    EXPECT_EQ(config.layers[i].rope_theta, full ? 1e6 : 1e4) << i;
  }
  EXPECT_EQ(config.embedding_scale, 8.0f);
  EXPECT_EQ(config.activation, Activation::kGeluTanh);

  GgufSpec spec = TinyGguf(model);
  spec.Uint32("gemma3.attention.sliding_window_pattern", 2);
  EXPECT_EQ(ConfigOf(spec).layers[1].window, 0);
  EXPECT_EQ(ConfigOf(spec).layers[2].window, 8);
  spec.Remove("gemma3.attention.sliding_window_pattern");
  spec.Array("gemma3.attention.sliding_window_pattern", GgufType::kBool, 13,
             std::string("\1\0\1\1\1\1\1\1\1\1\1\1\1", 13));
  EXPECT_EQ(ConfigOf(spec).layers[1].window, 0);
  EXPECT_EQ(ConfigOf(spec).layers[5].window, 8);
}

// Gemma 3 4B and larger: the full layers are scaled by 8, the sliding ones never.
TEST_F(GgufConfig, GemmaScalesItsFullLayersOnly) {
  GgufSpec spec = TinyGguf({.family = "gemma3", .n_layers = 6, .n_kv_heads = 1});
  spec.String("gemma3.rope.scaling.type", "linear");
  spec.Float32("gemma3.rope.scaling.factor", 8.0f);
  const ModelConfig config = ConfigOf(spec);
  EXPECT_EQ(config.layers[5].rope_scaling.kind, RopeScalingKind::kLinear);
  EXPECT_EQ(config.layers[5].rope_scaling.factor, 8.0f);
  EXPECT_EQ(config.layers[4].rope_scaling.kind, RopeScalingKind::kNone);
}

TEST_F(GgufConfig, Gemma27BScalesByItsOwnWidthOfAHead) {
  GgufSpec spec = TinyGguf({.family = "gemma3", .n_layers = 62, .n_heads = 2, .n_kv_heads = 1});
  EXPECT_FLOAT_EQ(ConfigOf(spec).attention_scale, 1.0f / std::sqrt(32.0f));
  spec = TinyGguf({.family = "gemma3", .n_layers = 2, .n_heads = 2, .n_kv_heads = 1});
  EXPECT_FLOAT_EQ(ConfigOf(spec).attention_scale, 0.25f);
}

TEST_F(GgufConfig, ListedRopeFactorsAreRead) {
  GgufSpec spec = TinyGguf({});
  std::string data;
  for (int i = 0; i < 8; ++i) data += RawBytes(1.0f + i);
  spec.tensors.push_back({"rope_freqs.weight", {8}, 0, data});
  const ModelConfig config = ConfigOf(spec);
  EXPECT_EQ(config.layers[1].rope_scaling.kind, RopeScalingKind::kFactors);
  EXPECT_EQ(config.layers[1].rope_scaling.factors[7], 8.0f);

  spec.TensorAt("rope_freqs.weight").data = std::string(32, '\0');
  ExpectCleanError(Open(spec), path_, "rope_freqs.weight");
  spec.TensorAt("rope_freqs.weight").sizes = {4};
  ExpectCleanError(Open(spec), path_, "rope_freqs.weight");
}

TEST_F(GgufConfig, WhatMetadataLeavesOutHasDefaults) {
  GgufSpec spec = TinyGguf({});
  for (const char* key : {"llama.attention.key_length", "llama.attention.value_length",
                          "llama.rope.dimension_count", "llama.rope.freq_base"}) {
    spec.Remove(key);
  }
  const ModelConfig config = ConfigOf(spec);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.layers[0].rope_theta, 10000.0);
  EXPECT_FLOAT_EQ(config.attention_scale, 0.25f);
}

struct Hostile {
  const char* name;
  void (*bend)(GgufSpec&);
  const char* field;
};

using S = GgufSpec;
const Hostile kHostileFiles[] = {
    {"no architecture", [](S& s) { s.Remove("general.architecture"); }, "general.architecture"},
    {"unknown architecture", [](S& s) { s.At("general.architecture").bytes = GgufText("mamba"); },
     "general.architecture"},
    {"architecture a number", [](S& s) { Replace(s, "general.architecture", 1u); },
     "general.architecture"},
    {"no layers", [](S& s) { Replace(s, "llama.block_count", 0u); }, "llama.block_count"},
    {"10^6 layers", [](S& s) { Replace(s, "llama.block_count", 1000000u); }, "llama.block_count"},
    {"2^32 - 1 layers", [](S& s) { Replace(s, "llama.block_count", ~0u); }, "llama.block_count"},
    {"one layer more", [](S& s) { Replace(s, "llama.block_count", 3u); }, "blk.2."},
    {"one layer less", [](S& s) { Replace(s, "llama.block_count", 1u); }, "blk.1."},
    {"layers as float", [](S& s) { Replace(s, "llama.block_count", 2.0f); }, "llama.block_count"},
    {"layers missing", [](S& s) { s.Remove("llama.block_count"); }, "llama.block_count"},
    {"no heads", [](S& s) { Replace(s, "llama.attention.head_count", 0u); },
     "llama.attention.head_count"},
    {"10^6 heads", [](S& s) { Replace(s, "llama.attention.head_count", 1000000u); },
     "llama.attention.head_count"},
    {"heads do not divide",
     [](S& s) {
       Replace(s, "llama.attention.head_count", 5u);
       s.Remove("llama.attention.key_length");
     },
     "llama.attention.head_count"},
    {"heads do not group", [](S& s) { Replace(s, "llama.attention.head_count_kv", 3u); },
     "num_key_value_heads"},
    {"more KV heads than heads", [](S& s) { Replace(s, "llama.attention.head_count_kv", 8u); },
     "num_key_value_heads"},
    {"no KV heads", [](S& s) { Replace(s, "llama.attention.head_count_kv", 0u); },
     "llama.attention.head_count_kv"},
    {"width 0", [](S& s) { Replace(s, "llama.embedding_length", 0u); }, "llama.embedding_length"},
    {"width 2^31", [](S& s) { Replace(s, "llama.embedding_length", 1u << 31); },
     "llama.embedding_length"},
    {"width of another model", [](S& s) { Replace(s, "llama.embedding_length", 128u); },
     "token_embd.weight"},
    {"FFN 0", [](S& s) { Replace(s, "llama.feed_forward_length", 0u); },
     "llama.feed_forward_length"},
    {"context 0", [](S& s) { Replace(s, "llama.context_length", 0u); }, "llama.context_length"},
    {"eps 0", [](S& s) { Replace(s, "llama.attention.layer_norm_rms_epsilon", 0.0f); },
     "layer_norm_rms_epsilon"},
    {"eps NaN", [](S& s) { Replace(s, "llama.attention.layer_norm_rms_epsilon", NAN); },
     "layer_norm_rms_epsilon"},
    {"eps 2", [](S& s) { Replace(s, "llama.attention.layer_norm_rms_epsilon", 2.0f); },
     "rms_norm_eps"},
    {"theta 0", [](S& s) { Replace(s, "llama.rope.freq_base", 0.0f); }, "llama.rope.freq_base"},
    {"theta infinite", [](S& s) { Replace(s, "llama.rope.freq_base", INFINITY); },
     "llama.rope.freq_base"},
    {"rotation odd", [](S& s) { Replace(s, "llama.rope.dimension_count", 15u); },
     "llama.rope.dimension_count"},
    {"rotation 0", [](S& s) { Replace(s, "llama.rope.dimension_count", 0u); },
     "llama.rope.dimension_count"},
    {"rotation partial", [](S& s) { Replace(s, "llama.rope.dimension_count", 8u); },
     "llama.rope.dimension_count"},
    {"scaling yarn", [](S& s) { s.String("llama.rope.scaling.type", "yarn"); },
     "llama.rope.scaling.type"},
    {"scaling without factor", [](S& s) { s.String("llama.rope.scaling.type", "linear"); },
     "llama.rope.scale_linear"},
    {"experts", [](S& s) { s.Uint32("llama.expert_count", 8); }, "llama.expert_count"},
    {"a part of a split file", [](S& s) { s.Int32("split.count", 3); }, "parts"},
    {"vocabulary not the embedding", [](S& s) { s.Uint32("llama.vocab_size", 319); },
     "llama.vocab_size"},
    {"more tokens than rows", [](S& s) { s.TensorAt("token_embd.weight").sizes[1] = 263; },
     "tokenizer.ggml.tokens"},
    {"types of another length",
     [](S& s) {
       s.Remove("tokenizer.ggml.token_type");
       s.Ints("tokenizer.ggml.token_type", {1, 1});
     },
     "tokenizer.ggml.token_type"},
    {"types as floats",
     [](S& s) {
       s.Remove("tokenizer.ggml.token_type");
       s.Floats("tokenizer.ggml.token_type", std::vector<float>(320, 1.0f));
     },
     "tokenizer.ggml.token_type"},
    {"scores of another length", [](S& s) { s.Floats("tokenizer.ggml.scores", {1.0f}); },
     "tokenizer.ggml.scores"},
    {"scores as ints", [](S& s) { s.Ints("tokenizer.ggml.scores", std::vector<int32_t>(320, 1)); },
     "tokenizer.ggml.scores"},
    {"tokens as ints",
     [](S& s) {
       s.Remove("tokenizer.ggml.tokens");
       s.Ints("tokenizer.ggml.tokens", {1});
     },
     "tokenizer.ggml.tokens"},
    {"eos beyond", [](S& s) { Replace(s, "tokenizer.ggml.eos_token_id", 320u); },
     "tokenizer.ggml.eos_token_id"},
    {"bos 2^32 - 1", [](S& s) { Replace(s, "tokenizer.ggml.bos_token_id", ~0u); },
     "tokenizer.ggml.bos_token_id"},
    {"a tensor missing", [](S& s) { s.TensorAt("blk.1.ffn_up.weight").name = "gone"; },
     "blk.1.ffn_up.weight"},
    {"a tensor transposed",
     [](S& s) {
       s.TensorAt("blk.0.ffn_up.weight").sizes = {96, 64};
     },
     "blk.0.ffn_up.weight"},
    {"a tensor that nothing uses",
     [](S& s) {
       s.tensors.push_back({"blk.0.attn_sinks.weight", {1}, 0, "abcd"});
     },
     "blk.0.attn_sinks.weight"},
    {"no embedding", [](S& s) { s.TensorAt("token_embd.weight").name = "gone"; },
     "token_embd.weight"},
};

TEST_F(GgufConfig, HostileModelsAreCleanErrors) {
  const GgufSpec good = TinyGguf({});
  ASSERT_TRUE(Open(good).ok());
  for (const Hostile& hostile : kHostileFiles) {
    SCOPED_TRACE(hostile.name);
    GgufSpec spec = good;
    hostile.bend(spec);
    ExpectCleanError(Open(spec), path_, hostile.field);
  }
}

}  // namespace
}  // namespace echelon
