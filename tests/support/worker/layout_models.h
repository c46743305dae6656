#pragma once
// What the tests of layouts share: tiny random models of every family and schedule, groups of ranks
// as threads that run them, and the distance of an answer to the naive twin's.

#include <gtest/gtest.h>

#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "common/config.h"
#include "tests/support/model_builder.h"
#include "tests/support/worker/generate.h"
#include "worker/local_group.h"

namespace echelon::testing {

inline constexpr int kPageTokens = 4;
inline constexpr int kPromptTokens = 23;

struct LayoutModel {
  TinyModel tiny;
  ModelSettings schedule;
  std::string name;
  std::string backend = "reference";
  double tolerance = 0.0;  // of a log-probability, against the twin
};
inline void PrintTo(const LayoutModel& m, std::ostream* out) { *out << m.name; }

std::vector<LayoutModel> LayoutModels();
ModelSettings Schedule(const char* schedule, const char* ladder_layers, const char* pattern);
std::vector<int32_t> RandomIds(int count, uint64_t seed);
// A prompt whose every position is scored, then tokens drawn with all the trimmings.
Wish Scored();

// A model and the groups of ranks that run it.
class TinyGroups {
 public:
  explicit TinyGroups(const LayoutModel& model);
  LocalGroupOptions Options(const ParallelLayout& layout, int threads = 1) const;
  std::unique_ptr<LocalGroup> Start(const LocalGroupOptions& options) const;
  // The greatest difference of any log-probability the answer reports to the twin's.
  double WorstAgainstTwin(const Wish& wish, const Answer& answer, int tp) const;
  const Checkpoint& checkpoint() const { return *checkpoint_; }
  const ModelConfig& model() const { return model_; }

 private:
  const std::string backend_;
  ScratchFolder folder_;
  std::unique_ptr<Checkpoint> checkpoint_;
  ModelConfig model_;
};

class LayoutTest : public ::testing::TestWithParam<LayoutModel> {
 protected:
  LayoutTest() : groups_(GetParam()) {}
  std::unique_ptr<LocalGroup> Group(const ParallelLayout& layout, int threads = 1) const {
    return groups_.Start(groups_.Options(layout, threads));
  }
  // Tokens fed again as generated ones leave the rest as it was, from whichever token on.
  static void ExpectReplayContinues(LocalGroup& group);
  const TinyGroups groups_;
};

}  // namespace echelon::testing
