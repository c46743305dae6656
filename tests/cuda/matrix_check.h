#pragma once
// The equality matrix on CUDA devices as one test body, the ranks threads of this process: the test
// of tests/parallel/equality_matrix_test.cc for layouts of up to four ranks, chosen for each model
// by what differs: shards of unequal heads, ranks that share a KV head, stages of unequal layers,
// sequence parallelism, and products of these.

#include <algorithm>
#include <ostream>
#include <string>
#include <vector>

#include "common/check.h"
#include "tests/support/worker/equality_check.h"

namespace echelon::testing {

// Activations and unquantised weights pass the tensor cores as sums of two bfloat16 numbers, off by
// 2^-18 of their size: an eighth of the 15-bit codes of the CPU backend on quantised weights, whose
// tolerance is 1.5e-3 (tests/support/worker/layout_models.cc).
inline constexpr double kMatrixTolerance = 1.5e-3 / 8;

struct MatrixRow {
  const char* model;  // of LayoutModels()
  std::vector<ParallelLayout> layouts;
};
inline void PrintTo(const MatrixRow& row, std::ostream* out) { *out << row.model; }

inline std::vector<MatrixRow> MatrixRows() {
  return {
      {"llama_nine_heads", {{1}, {2}, {4}, {1, 3}, {1, 1, 2}, {1, 2, 2}}},
      {"llama_ladder", {{1}, {2}, {2, 2}, {1, 1, 3}}},
      {"llama_partial_ladder", {{1}, {2, 2}}},
      {"llama_parallel", {{1}, {2}, {4}, {2, 2}}},
      {"llama_desync_attention_kept", {{1}, {3}}},
      {"llama_desync_mixed", {{2}, {2, 2}, {2, 1, 2}}},
      {"mistral_window", {{1}, {3}, {1, 1, 2}}},
      {"qwen2_biases", {{1}, {2}}},
      {"qwen3_head_norms", {{1}, {3}}},
      {"gemma3_post_norms", {{1}, {2}, {1, 1, 2}}},
      {"gemma3_ladder", {{1}, {2, 2}}},
  };
}

inline LayoutModel ModelOf(const MatrixRow& row) {
  const auto all = LayoutModels();
  const auto found = std::find_if(all.begin(), all.end(),
                                  [&](const auto& model) { return model.name == row.model; });
  CHECK_MSG(found != all.end(), row.model);
  LayoutModel model = *found;
  model.backend = "cuda";
  model.tolerance = kMatrixTolerance;
  return model;
}

inline std::string NameOfRow(const ::testing::TestParamInfo<MatrixRow>& info) {
  return info.param.model;
}

// `comm`: how the tensors travel.
inline void CheckMatrixRow(const MatrixRow& row, const StepCommOptions& comm) {
  const LayoutModel model = ModelOf(row);
  const TinyGroups groups(model);
  CheckEquality(model, groups, row.layouts, [&](const ParallelLayout& layout) {
    LocalGroupOptions options = groups.Options(layout);
    options.executor.comm = comm;
    return groups.Start(options);
  });
}

}  // namespace echelon::testing
