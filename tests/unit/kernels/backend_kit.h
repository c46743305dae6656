#pragma once
// The backends that test bodies are instantiated for. A body is written once; a backend that this
// machine cannot run is skipped, and the test says why.

#include <gtest/gtest.h>

#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "tests/unit/kernels/ops_kit.h"

namespace echelon::test {

struct BackendCase {
  std::string name;
  std::string isa;  // cpu only
  int threads;
  // Which side rounds: the reference sums in double and rounds once; cpu computes in float and
  // takes activations as 15-bit codes with a scale for 32 when the weights are quantised.
  bool rounds_activations;
};
inline void PrintTo(const BackendCase& c, std::ostream* out) {
  *out << c.name << " " << c.isa << " " << c.threads;
}

inline std::vector<BackendCase> BackendCases() {
  return {
      {"reference", "auto", 1, false}, {"reference", "auto", 3, false}, {"cpu", "avx2", 1, true},
      {"cpu", "avx2", 3, true},        {"cpu", "avxvnni", 1, true},     {"cpu", "avxvnni", 3, true},
      {"cpu", "avx512", 1, true},      {"cpu", "avx512", 3, true},      {"cuda", "auto", 1, false}};
}
inline std::string CaseName(const testing::TestParamInfo<BackendCase>& info) {
  return info.param.name + "_" + info.param.isa + "_threads" + std::to_string(info.param.threads);
}

class BackendTest : public testing::TestWithParam<BackendCase> {
 protected:
  void SetUp() override {
    const BackendCase& c = GetParam();
    auto made = MakeBackend({.name = c.name, .threads = c.threads, .isa = c.isa});
    if (!made.ok()) {
      ASSERT_EQ(made.error().code, ErrorCode::kUnsupported) << made.error().message;
      GTEST_SKIP() << made.error().message;  // what this build, processor or host lacks
    }
    backend_ = std::move(*made);
    reference_ = MustMake("reference", 1);
  }
  bool exact() const { return GetParam().name == "reference"; }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Backend> reference_;
};

}  // namespace echelon::test
