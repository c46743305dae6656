#pragma once
// The sources behind OpenCheckpoint: one function each.

#include <cstdint>
#include <memory>
#include <string>

#include "common/json.h"
#include "common/model/checkpoint.h"

namespace echelon {

// config.json files in use have 1 to 30 KiB; at this limit parsing one takes below 40 MiB.
inline constexpr uint64_t kConfigBytesMax = 1 << 20;
inline constexpr uint64_t kConfigValuesMax = 1 << 17;

struct ConfigText {
  std::string path;
  std::string text;
  Json json;
};
// Reads a config.json within the limits above.
Result<ConfigText> ReadConfigText(const std::string& path);

Result<std::unique_ptr<Checkpoint>> OpenGgufCheckpoint(const std::string& path);

// `folder` holds config.json; the tensors are those of `file` where it is not empty, else of the
// folder's model.safetensors.index.json or model.safetensors.
Result<std::unique_ptr<Checkpoint>> OpenSafetensorsCheckpoint(const std::string& folder,
                                                              const std::string& file);

// Weights that are a pure function of (seed, tensor, element), so that the shards of any layout
// agree; scaled so that activations keep their size. `source`: hash of the configuration's text.
std::unique_ptr<Checkpoint> MakeDummyCheckpoint(ModelConfig config,
                                                const CheckpointOptions& options,
                                                const std::string& source);

}  // namespace echelon
