#pragma once
// The middle one of measured values. Pure.

#include <algorithm>
#include <cstddef>
#include <vector>

namespace echelon {

// Of an even number the greater of the two in the middle. `values` is not empty.
inline double MedianOf(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace echelon
