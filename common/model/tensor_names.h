#pragma once
// What each tensor of a decoder is called in a GGUF file and in a Hugging Face checkpoint, and
// which shape a configuration demands of it. Pure functions.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/model_config.h"
#include "common/parallel_layout.h"

namespace echelon {

enum class NameScheme : uint8_t { kGguf, kHuggingFace };

struct TensorShape {
  int64_t rows = 0;
  int64_t cols = 0;
};

inline constexpr int kTensorRoles = static_cast<int>(TensorRole::kDown) + 1;

// Does the role stand once for the model, not once in each layer?
bool IsGlobal(TensorRole role);
// Does a model of this configuration have such a tensor?
bool HasRole(const ModelConfig& config, TensorRole role);
TensorShape ShapeOf(const ModelConfig& config, TensorRole role);
// The name, for Hugging Face without what stands before "layers." or "embed_tokens" (`model.`).
std::string TensorName(const ModelConfig& config, NameScheme scheme, TensorRole role, int layer);

}  // namespace echelon
