#pragma once
// cos and sin of a step's rows, computed once and used by all layers that share a table. They are
// computed in double and rounded to float, a row from its position alone.

#include <cstdint>
#include <span>
#include <vector>

namespace echelon::cpu {

class RopeAngles {
 public:
  // (T, D / 2) each, valid until the fourth call after this one with other arguments.
  struct View {
    const float* cos;
    const float* sin;
  };
  View For(std::span<const double> inverse_frequency, std::span<const int32_t> positions);

 private:
  struct Entry {
    std::vector<double> inverse_frequency;
    std::vector<int32_t> positions;
    std::vector<float> cos, sin;
  };
  Entry entries_[4];  // Gemma alternates between two tables, a split step between two parts
  int oldest_ = 0;
};

}  // namespace echelon::cpu
