#include "kernels/cpu/rope_angles.h"

#include <algorithm>
#include <iterator>

#include "kernels/real_math.h"

namespace echelon::cpu {

RopeAngles::View RopeAngles::For(std::span<const double> inverse_frequency,
                                 std::span<const int32_t> positions) {
  for (const Entry& entry : entries_) {
    if (std::ranges::equal(entry.positions, positions) &&
        std::ranges::equal(entry.inverse_frequency, inverse_frequency)) {
      return {entry.cos.data(), entry.sin.data()};
    }
  }
  Entry& entry = entries_[oldest_];
  oldest_ = (oldest_ + 1) % static_cast<int>(std::size(entries_));
  entry.positions.assign(positions.begin(), positions.end());
  entry.inverse_frequency.assign(inverse_frequency.begin(), inverse_frequency.end());
  entry.cos.clear();
  entry.sin.clear();
  for (const int32_t position : positions) {
    for (const double frequency : inverse_frequency) {
      const SinCos angle = RealSinCos(position * frequency);
      entry.cos.push_back(static_cast<float>(angle.cos));
      entry.sin.push_back(static_cast<float>(angle.sin));
    }
  }
  return {entry.cos.data(), entry.sin.data()};
}

}  // namespace echelon::cpu
