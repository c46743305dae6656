#pragma once
// From settings to what runs: the layout, and the model with any schedule override applied. The
// same pure functions on the coordinator (which refuses before anything is launched) and on every
// rank. Settings were checked for form by ParseConfig; here they meet the model.

#include <memory>

#include "common/config.h"
#include "common/model/checkpoint.h"
#include "common/model/tokenizer.h"
#include "common/model_config.h"
#include "common/parallel_layout.h"
#include "common/result.h"

namespace echelon {

// Form only: ParallelLayout::Validate holds it against a model.
Result<ParallelLayout> LayoutFrom(const LayoutSettings& settings);

// The checkpoint's configuration, or with another schedule where the settings ask for one.
// `warning`, where not empty, must be shown: the override changes what the model computes.
struct EffectiveModel {
  ModelConfig model;
  std::string warning;
};
Result<EffectiveModel> ModelFrom(const ModelConfig& checkpoint, const ModelSettings& settings);

// What a configuration means for the checkpoint it names. Opens and checks the checkpoint's headers
// only; refuses a layout that the model cannot be cut into.
struct RunSetup {
  std::unique_ptr<Checkpoint> checkpoint;
  ParallelLayout layout;
  EffectiveModel effective;
};
Result<RunSetup> SetUpRun(const ServiceConfig& config);

// Of worker.backend, what computes a pipeline stage.
std::string BackendOfStage(const std::string& backends, int stage);

// The checkpoint's tokenizer. Dummy weights may come without one: then a token is a byte
// (MakeByteTokenizer), and `note`, else empty, says so.
struct RunTokenizer {
  std::unique_ptr<Tokenizer> tokenizer;
  std::string note;
};
Result<RunTokenizer> LoadRunTokenizer(const ModelSettings& settings, const ModelConfig& model);

}  // namespace echelon
