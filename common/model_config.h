#pragma once
// ModelConfig: what a checkpoint is, in numbers. Filled from GGUF metadata or config.json by the
// rows of the family table (model_families.h); everything after the loader reads only this.
// Plain value type; the same on every rank.

#include <cstdint>
#include <string>
#include <vector>

#include "common/result.h"

namespace echelon {

enum class Activation : uint8_t { kSilu, kGeluTanh };

// Which elements of a head a rotary pair consists of: (2i, 2i+1), as GGUF stores Llama's q and k,
// or (i, i + d/2), as Hugging Face stores every family.
enum class RopePairs : uint8_t { kInterleaved, kHalves };

// kFactors: a GGUF file lists one divisor for each frequency (tensor rope_freqs.weight).
enum class RopeScalingKind : uint8_t { kNone, kLinear, kLlama3, kFactors };
struct RopeScaling {
  RopeScalingKind kind = RopeScalingKind::kNone;
  float factor = 1.0f;
  float low_frequency_factor = 1.0f;   // llama3 only
  float high_frequency_factor = 4.0f;  // llama3 only
  int original_context = 8192;         // llama3 only
  std::vector<float> factors;          // kFactors only: head_dim / 2 of them
};

enum class ScheduleKind : uint8_t { kStandard, kLadder, kParallel, kDesync };
const char* ScheduleName(ScheduleKind kind);  // "standard", ...

struct LayerConfig {
  int window = 0;  // attends to the last `window` positions, itself included; 0 = all
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  bool ladder = false;  // a ladder layer of a (partial) ladder checkpoint
};

struct ModelConfig {
  std::string family;  // a row of the family table: "llama", "gemma3", ...
  std::string name;    // the checkpoint's own name, for people
  int d_model = 0;
  int n_heads = 0;
  int n_kv_heads = 0;
  int head_dim = 0;
  int d_ff = 0;
  int vocab_size = 0;   // rows of the embedding
  int context_max = 0;  // positions the checkpoint was trained for
  std::vector<LayerConfig> layers;

  float norm_eps = 1e-5f;
  Activation activation = Activation::kSilu;
  RopePairs rope_pairs = RopePairs::kHalves;
  bool qkv_bias = false;    // Qwen2
  bool qk_norm = false;     // Qwen3, Gemma 3: RMSNorm of every query and key head
  bool post_norms = false;  // Gemma: a norm after attention and after the MLP, before the residual
  bool norm_plus_one = false;  // the file stores w, the norm multiplies by 1 + w (HF Gemma)
  float embedding_scale =
      1.0f;  // Gemma: sqrt(d_model), rounded as the checkpoint's dtype rounds it
  float attention_scale = 0.0f;  // usually 1 / sqrt(head_dim)
  bool tied_embeddings = false;  // the LM head is the embedding matrix
  // Bytes that the checkpoint stores for a weight of the LM head over those for one of a layer:
  // what the head costs a pipeline stage beside layers. Set as the checkpoint is opened.
  double head_cost = 1.0;

  ScheduleKind schedule = ScheduleKind::kStandard;  // belongs to the checkpoint
  std::string desync_pattern;  // per layer two characters, '1' keeps the all-reduce: see docs

  int n_layers() const { return static_cast<int>(layers.size()); }
  // Refuses what no decoder can run (zero sizes, heads that do not group, ...), naming the field.
  Status Validate() const;
};

}  // namespace echelon
