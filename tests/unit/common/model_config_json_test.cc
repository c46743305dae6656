// What config.json says about a model: older and newer keys, and refusals of hostile values.

#include <gtest/gtest.h>

#include <cmath>

#include "common/model/checkpoint.h"
#include "common/model/model_families.h"
#include "common/strings.h"
#include "tests/support/clean_error.h"
#include "tests/support/model_builder.h"

namespace echelon {
namespace {

class JsonConfig : public testing::Test {
 protected:
  Result<std::unique_ptr<Checkpoint>> OpenText(std::string_view text) {
    WriteFile(path_, text);
    return OpenCheckpoint(path_, {.load_format = "dummy"});
  }
  // The tiny configuration of a family with members replaced, or removed where they are null.
  ModelConfig ConfigOf(const std::string& family, const std::string& changes, int n_layers = 4) {
    const Json extra = Json::Parse(changes, "test").value();
    const Json json = TinyConfig({.family = family, .n_layers = n_layers, .extra = extra});
    auto opened = OpenText(json.Dump());
    EXPECT_TRUE(opened.ok()) << opened.error().message;
    return (*opened)->config();
  }
  ScratchFolder folder_;
  std::string path_ = folder_ / "config.json";
};

std::vector<int> Windows(const ModelConfig& config) {
  std::vector<int> out;
  for (const LayerConfig& layer : config.layers) out.push_back(layer.window);
  return out;
}

TEST_F(JsonConfig, Llama3ScalingInBothSpellings) {
  const std::string numbers =
      R"("factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192)";
  for (const std::string& text :
       {StrCat(R"({"rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3",)", numbers, "}}"),
        StrCat(
            R"({"rope_theta":null,"rope_parameters":{"rope_type":"llama3","rope_theta":500000.0,)",
            numbers, "}}")}) {
    const ModelConfig config = ConfigOf("llama", text);
    const LayerConfig& layer = config.layers[3];
    EXPECT_EQ(layer.rope_theta, 500000.0);
    EXPECT_EQ(layer.rope_scaling.kind, RopeScalingKind::kLlama3);
    EXPECT_EQ(layer.rope_scaling.factor, 32.0f);
    EXPECT_EQ(layer.rope_scaling.original_context, 8192);
  }
  const ModelConfig linear =
      ConfigOf("llama", R"({"rope_scaling":{"type":"linear","factor":2.0}})");
  EXPECT_EQ(linear.layers[0].rope_scaling.kind, RopeScalingKind::kLinear);
}

TEST_F(JsonConfig, HeadSizeAndKvHeadsHaveDefaults) {
  const ModelConfig config = ConfigOf("llama", R"({"head_dim":null,"num_key_value_heads":null})");
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.n_kv_heads, 4);
  EXPECT_EQ(ConfigOf("qwen3", R"({"head_dim":null})").head_dim, 128);
}

TEST_F(JsonConfig, MistralSlidesEverywhere) {
  EXPECT_EQ(Windows(ConfigOf("mistral", R"({"sliding_window":100})")),
            (std::vector<int>{100, 100, 100, 100}));
  EXPECT_EQ(Windows(ConfigOf("mistral", R"({"sliding_window":null})")), std::vector<int>(4, 0));
}

TEST_F(JsonConfig, QwenSlidesFromALayerOn) {
  for (const std::string family : {"qwen2", "qwen3"}) {
    EXPECT_EQ(Windows(ConfigOf(family, R"({"sliding_window":64,"max_window_layers":3})")),
              std::vector<int>(4, 0));
    EXPECT_EQ(Windows(ConfigOf(family, R"({"use_sliding_window":true,"sliding_window":64,
                                           "max_window_layers":3})")),
              (std::vector<int>{0, 0, 0, 64}));
    EXPECT_EQ(Windows(ConfigOf(family, R"({"use_sliding_window":true,"sliding_window":64,
        "layer_types":["sliding_attention","full_attention","full_attention","full_attention"]})")),
              (std::vector<int>{64, 0, 0, 0}));
  }
}

TEST_F(JsonConfig, GemmaInOlderAndNewerSpelling) {
  const std::string older = R"({"rope_theta":1000000.0,"rope_local_base_freq":5000.0,
      "sliding_window_pattern":3,"rope_scaling":{"rope_type":"linear","factor":8.0}})";
  const std::string newer = R"({"rope_theta":null,"layer_types":["sliding_attention",
      "sliding_attention","full_attention","sliding_attention"],"rope_parameters":{
      "sliding_attention":{"rope_type":"default","rope_theta":5000.0},
      "full_attention":{"rope_type":"linear","factor":8.0,"rope_theta":1000000.0}}})";
  for (const std::string& text : {older, newer}) {
    const ModelConfig config = ConfigOf("gemma3", text);
    EXPECT_EQ(Windows(config), (std::vector<int>{8, 8, 0, 8}));
    EXPECT_EQ(config.layers[0].rope_theta, 5000.0);
    EXPECT_EQ(config.layers[0].rope_scaling.kind, RopeScalingKind::kNone);
    EXPECT_EQ(config.layers[2].rope_theta, 1e6);
    EXPECT_EQ(config.layers[2].rope_scaling.factor, 8.0f);
    EXPECT_TRUE(config.norm_plus_one);
  }
  const ModelConfig config = ConfigOf("gemma3", R"({"query_pre_attn_scalar":64})");
  EXPECT_FLOAT_EQ(config.attention_scale, 0.125f);
}

// A model that also sees pictures: the text part is nested and leaves out what is default.
TEST_F(JsonConfig, GemmaNestedWithDefaults) {
  auto opened = OpenText(R"({"model_type":"gemma3","vision_config":{"hidden_size":1152},
      "text_config":{"model_type":"gemma3_text","hidden_size":2560,"intermediate_size":10240,
      "num_hidden_layers":34,"sliding_window":1024,
      "rope_scaling":{"factor":8.0,"rope_type":"linear"}}})");
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  const ModelConfig& config = (*opened)->config();
  EXPECT_EQ(config.n_heads, 8);
  EXPECT_EQ(config.n_kv_heads, 4);
  EXPECT_EQ(config.head_dim, 256);
  EXPECT_EQ(config.vocab_size, 262208);
  EXPECT_EQ(config.layers[0].window, 1024);
  EXPECT_EQ(config.layers[5].window, 0);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_FLOAT_EQ(config.attention_scale, 1.0f / 16.0f);
}

// sqrt(640) = 25.2982...: bfloat16 has steps of 1/8 there, float16 of 1/64.
TEST_F(JsonConfig, EmbeddingScaleIsRoundedAsStored) {
  EXPECT_EQ(EmbeddingScale(640, TensorFormat::kBF16), 25.25f);
  EXPECT_EQ(EmbeddingScale(640, TensorFormat::kF16), 25.296875f);
  EXPECT_FLOAT_EQ(EmbeddingScale(640, TensorFormat::kF32), 25.298221f);
  EXPECT_EQ(EmbeddingScale(640, TensorFormat::kQ8_0), EmbeddingScale(640, TensorFormat::kF32));
}

TEST_F(JsonConfig, LadderLayers) {
  const auto ladder = [&](const std::string& changes) {
    const ModelConfig config = ConfigOf("llamaLadder", changes);
    EXPECT_EQ(config.schedule, ScheduleKind::kLadder);
    std::string out;
    for (const LayerConfig& layer : config.layers) out += layer.ladder ? '1' : '0';
    return out;
  };
  EXPECT_EQ(ladder("{}"), "1111");
  EXPECT_EQ(ladder(R"({"ladder_layers":1})"), "0001");
  EXPECT_EQ(ladder(R"({"ladder_layers":0})"), "0000");
  EXPECT_EQ(ladder(R"({"ladder_layers":[0,2]})"), "1010");
  EXPECT_EQ(ConfigOf("llama", "{}").schedule, ScheduleKind::kStandard);
}

struct Hostile {
  const char* family;
  const char* changes;  // of config.json
  const char* field;
};
constexpr Hostile kHostile[] = {
    {"llama", R"({"model_type":null})", "model_type"},
    {"llama", R"({"model_type":"gpt_oss"})", "model_type"},
    {"llama", R"({"model_type":"a\nb"})", "model_type"},
    {"llama", R"({"model_type":7})", "model_type"},
    {"llama", R"({"hidden_size":0})", "hidden_size"},
    {"llama", R"({"hidden_size":-64})", "hidden_size"},
    {"llama", R"({"hidden_size":2147483648})", "hidden_size"},
    {"llama", R"({"hidden_size":18446744073709551615})", "hidden_size"},
    {"llama", R"({"hidden_size":"64"})", "hidden_size"},
    {"llama", R"({"hidden_size":64.5})", "hidden_size"},
    {"llama", R"({"hidden_size":null})", "hidden_size"},
    {"llama", R"({"head_dim":null,"num_attention_heads":5})", "num_attention_heads"},
    {"llama", R"({"num_attention_heads":0})", "num_attention_heads"},
    {"llama", R"({"num_key_value_heads":8})", "num_key_value_heads"},
    {"llama", R"({"num_key_value_heads":3})", "num_key_value_heads"},
    {"llama", R"({"num_key_value_heads":0})", "num_key_value_heads"},
    {"llama", R"({"head_dim":15})", "head_dim"},
    {"llama", R"({"head_dim":0})", "head_dim"},
    {"llama", R"({"num_hidden_layers":1000000000})", "num_hidden_layers"},
    {"llama", R"({"num_hidden_layers":0})", "num_hidden_layers"},
    {"llama", R"({"num_hidden_layers":true})", "num_hidden_layers"},
    {"llama", R"({"intermediate_size":0})", "intermediate_size"},
    {"llama", R"({"vocab_size":0})", "vocab_size"},
    {"llama", R"({"vocab_size":4294967296})", "vocab_size"},
    {"llama", R"({"max_position_embeddings":0})", "max_position_embeddings"},
    {"llama", R"({"rope_theta":0})", "rope_theta"},
    {"llama", R"({"rope_theta":-1.5})", "rope_theta"},
    {"llama", R"({"rope_theta":1e300})", "rope_theta"},
    {"llama", R"({"rope_theta":"10000"})", "rope_theta"},
    {"llama", R"({"rms_norm_eps":0})", "rms_norm_eps"},
    {"llama", R"({"rms_norm_eps":1.5})", "rms_norm_eps"},
    {"llama", R"({"tie_word_embeddings":1})", "tie_word_embeddings"},
    {"llama", R"({"hidden_act":"relu"})", "hidden_act"},
    {"llama", R"({"attention_bias":true})", "attention_bias"},
    {"llama", R"({"mlp_bias":true})", "mlp_bias"},
    {"llama", R"({"quantization_config":{"quant_method":"awq"}})", "quantization_config"},
    {"llama", R"({"eos_token_id":320})", "eos_token_id"},
    {"llama", R"({"eos_token_id":[1,-1]})", "eos_token_id"},
    {"llama", R"({"eos_token_id":[1,"2"]})", "eos_token_id"},
    {"llama", R"({"eos_token_id":"2"})", "eos_token_id"},
    {"llama", R"({"rope_scaling":[]})", "rope_scaling"},
    {"llama", R"({"rope_scaling":{"rope_type":"yarn","factor":4.0}})", "rope_scaling.rope_type"},
    {"llama", R"({"rope_scaling":{"type":"linear"}})", "rope_scaling.factor"},
    {"llama", R"({"rope_scaling":{"type":"linear","factor":0}})", "rope_scaling.factor"},
    {"llama", R"({"rope_scaling":{"rope_type":"llama3","factor":8.0}})", "low_freq_factor"},
    {"llama", R"({"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":4.0,
                  "high_freq_factor":4.0,"original_max_position_embeddings":8192}})",
     "low_freq_factor"},
    {"llama", R"({"rope_parameters":{"rope_theta":0}})", "rope_parameters.rope_theta"},
    {"llama", R"({"rope_parameters":{"partial_rotary_factor":0.5}})", "partial_rotary_factor"},
    {"llama", R"({"text_config":[]})", "text_config"},
    {"llama", R"({"text_config":{"model_type":"llama","hidden_size":0}})",
     "text_config.hidden_size"},
    {"mistral", R"({"sliding_window":0})", "sliding_window"},
    {"mistral", R"({"sliding_window":-1})", "sliding_window"},
    {"qwen2", R"({"use_sliding_window":"yes"})", "use_sliding_window"},
    {"qwen2", R"({"layer_types":["full_attention"]})", "layer_types"},
    {"qwen2", R"({"layer_types":["full_attention","full_attention","x\ny","full_attention"]})",
     "layer_types"},
    {"qwen2", R"({"use_sliding_window":true,"max_window_layers":-1})", "max_window_layers"},
    {"gemma3", R"({"sliding_window_pattern":0})", "sliding_window_pattern"},
    {"gemma3", R"({"query_pre_attn_scalar":0})", "query_pre_attn_scalar"},
    {"gemma3", R"({"hidden_activation":"silu"})", "hidden_activation"},
    {"gemma3", R"({"final_logit_softcapping":30.0})", "final_logit_softcapping"},
    {"gemma3", R"({"rope_parameters":{"full_attention":{"rope_theta":0}}})",
     "rope_parameters.full_attention.rope_theta"},
    {"llamaLadder", R"({"ladder_layers":5})", "ladder_layers"},
    {"llamaLadder", R"({"ladder_layers":-1})", "ladder_layers"},
    {"llamaLadder", R"({"ladder_layers":true})", "ladder_layers"},
    {"llamaLadder", R"({"ladder_layers":[4]})", "ladder_layers"},
    {"llamaLadder", R"({"ladder_layers":[1,1]})", "ladder_layers"},
    {"llamaLadder", R"({"ladder_layers":[0.5]})", "ladder_layers"},
};

TEST_F(JsonConfig, HostileValuesAreCleanErrors) {
  for (const Hostile& hostile : kHostile) {
    SCOPED_TRACE(StrCat(hostile.family, " ", hostile.changes));
    const Json extra = Json::Parse(hostile.changes, "test").value();
    const Json json = TinyConfig({.family = hostile.family, .n_layers = 4, .extra = extra});
    ExpectCleanError(OpenText(json.Dump()), path_, hostile.field);
  }
}

TEST_F(JsonConfig, HostileTextsAreCleanErrors) {
  ExpectCleanError(OpenText(""), path_, "");
  ExpectCleanError(OpenText("[]"), path_, "object");
  ExpectCleanError(OpenText("{\"model_type\":\"llama\",\"model_type\":\"llama\"}"), path_,
                   "model_type");
  ExpectCleanError(OpenText("{\"rope_theta\":1e400}"), path_, "rope_theta");
  ExpectCleanError(OpenText("{\"rope_theta\":NaN}"), path_, "rope_theta");
  ExpectCleanError(OpenText("{\"rope_theta\":\"\xff\"}"), path_, "");
  ExpectCleanError(OpenText(std::string(100000, '[')), path_, "nested");
  ExpectCleanError(OpenText(std::string((1 << 20) + 1, ' ')), path_, "limit");
  const std::string good = TinyConfig({}).Dump();
  ASSERT_TRUE(OpenText(good).ok());
  for (size_t size = 0; size < good.size(); ++size) {
    ExpectCleanError(OpenText(good.substr(0, size)), path_, "");
  }
}

// The embedding has other rows than config.json says.
TEST_F(JsonConfig, VocabularyMustBeTheEmbeddings) {
  WriteTinySafetensors({}, folder_.path());
  ASSERT_TRUE(OpenCheckpoint(folder_.path()).ok());
  Json json = TinyConfig({});
  json.Set("vocab_size", 319);
  json.Set("eos_token_id", 1);
  WriteFile(path_, json.Dump());
  ExpectCleanError(OpenCheckpoint(folder_.path()), folder_.path(), "model.embed_tokens.weight");
}

TEST_F(JsonConfig, AnAbsentHeadIsTiedUnlessDenied) {
  WriteTinySafetensors({.tied = true}, folder_.path());
  Json json = TinyConfig({});
  json.Set("tie_word_embeddings", nullptr);
  WriteFile(path_, json.Dump());
  auto opened = OpenCheckpoint(folder_.path());
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  EXPECT_TRUE((*opened)->config().tied_embeddings);
  json.Set("tie_word_embeddings", false);
  WriteFile(path_, json.Dump());
  ExpectCleanError(OpenCheckpoint(folder_.path()), folder_.path(), "lm_head.weight");
  // A copy of the tied head is not used.
  WriteTinySafetensors({.tied = false}, folder_.path());
  json.Set("tie_word_embeddings", true);
  WriteFile(path_, json.Dump());
  EXPECT_TRUE(OpenCheckpoint(folder_.path()).ok());
}

TEST_F(JsonConfig, PathsThatHoldNoModel) {
  ExpectCleanError(OpenCheckpoint(folder_ / "none"), "none", "no such");
  ExpectCleanError(OpenCheckpoint(folder_.path()), "config.json", "");
  WriteFile(path_, TinyConfig({}).Dump());
  ExpectCleanError(OpenCheckpoint(folder_.path()), "model.safetensors", "");
  EXPECT_FALSE(OpenCheckpoint(path_).ok());
  EXPECT_FALSE(OpenCheckpoint(folder_.path(), {.load_format = "fast"}).ok());
}

}  // namespace
}  // namespace echelon
