#pragma once
// Layouts of several ranks on CUDA devices as one test body, the ranks threads of this process: the
// tokens and, within rounding, the logits of the reference backend in the same layout; chunks and
// company change no bit.

#include <gtest/gtest.h>

#include <string>

#include "tests/support/worker/device_layouts.h"

namespace echelon::testing {

inline std::string NameOfLayout(const ::testing::TestParamInfo<LayoutCase>& info) {
  return info.param.name;
}

// `comm`: how the tensors travel.
inline void CheckLayout(const LayoutCase& of, const StepCommOptions& comm) {
  const LayoutInput input(of);
  LocalGroupOptions options = OptionsFor(of, of.backends);
  options.executor.comm = comm;
  const auto group = LocalGroup::Start(input.checkpoint(), input.model(), options);
  ASSERT_TRUE(group.ok()) << group.error().message;
  const std::vector<Answer> want = ReferenceAnswers(of, input);
  LocalGroupRunner runner(**group);
  for (const std::string& wrong : CheckAnswers(runner, &want)) ADD_FAILURE() << wrong;
}

}  // namespace echelon::testing
