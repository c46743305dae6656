#pragma once
// The layouts of several ranks that devices are tested with, whoever the ranks are: threads
// (tests/cuda/layout_check.h) or processes (tests/gpu/multi_rank.cc). A tiny random model and a few
// wishes, in any layout; the right answers are those of the reference backend in the same layout.

#include <memory>
#include <string>
#include <vector>

#include "common/model/checkpoint.h"
#include "tests/support/model_builder.h"
#include "tests/support/worker/generate.h"
#include "worker/local_group.h"

namespace echelon::testing {

struct LayoutCase {
  const char* name;
  int tp, pp, sp;
  const char* backends = "cuda";  // one, or one a stage
  const char* family = "llama";
  TokenSplitMode split = TokenSplitMode::kOff;
  int ranks() const { return tp * pp * sp; }
};

// Every axis and their product, on devices alone.
std::vector<LayoutCase> DeviceLayouts();

// The model that a case runs; its folder lives as long.
class LayoutInput {
 public:
  explicit LayoutInput(const LayoutCase& of);
  const Checkpoint& checkpoint() const { return *checkpoint_; }
  const ModelConfig& model() const { return checkpoint_->config(); }

 private:
  ScratchFolder folder_;
  std::unique_ptr<Checkpoint> checkpoint_;
};

// What a group of the case's layout is made with.
LocalGroupOptions OptionsFor(const LayoutCase& of, const std::string& backends);
std::vector<Answer> ReferenceAnswers(const LayoutCase& of, const LayoutInput& input);
// What is wrong with a runner's answers, a line each: other tokens than `want` (where it is given),
// logits beyond rounding, bits that chunks and pages change.
std::vector<std::string> CheckAnswers(PlanRunner& runner, const std::vector<Answer>* want);

}  // namespace echelon::testing
