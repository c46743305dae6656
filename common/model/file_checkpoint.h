#pragma once
// MakeFileCheckpoint: binds the tensors that files list to the roles that a configuration demands,
// and reads pieces of them. What GGUF and safetensors share once their headers are parsed.

#include <memory>
#include <string>
#include <vector>

#include "common/model/checkpoint.h"
#include "common/model/file.h"
#include "common/model/tensor_names.h"

namespace echelon {

struct CheckpointParts {
  ModelConfig config;
  NameScheme scheme = NameScheme::kGguf;
  std::string prefix;               // before every name but the LM head's: "model."
  std::string head_prefix;          // before the LM head's
  std::string path;                 // for errors
  std::vector<File> files;          // TensorInfo::file counts these
  std::vector<TensorInfo> tensors;  // every one must have a role: one left over is an error, since
                                    // a model that uses it would answer wrongly without it
  std::string fingerprint;
};

Result<std::unique_ptr<Checkpoint>> MakeFileCheckpoint(CheckpointParts parts);

}  // namespace echelon
