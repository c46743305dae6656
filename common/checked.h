#pragma once
// Checked: the one integer type for sizes that come from files or peers. Any overflow along the way
// makes the result invalid; there is no wrapped value to use by mistake.

#include <cstdint>
#include <optional>

namespace echelon {

class Checked {
 public:
  constexpr Checked(uint64_t value) : value_(value) {}  // NOLINT: implicit by design
  constexpr bool valid() const { return value_.has_value(); }
  // The value, or nothing when any step overflowed.
  constexpr std::optional<uint64_t> Get() const { return value_; }
  constexpr bool AtMost(uint64_t limit) const { return value_ && *value_ <= limit; }

  friend Checked operator+(Checked a, Checked b) {
    return Apply(a, b, [](auto x, auto y, auto* r) { return __builtin_add_overflow(x, y, r); });
  }
  friend Checked operator*(Checked a, Checked b) {
    return Apply(a, b, [](auto x, auto y, auto* r) { return __builtin_mul_overflow(x, y, r); });
  }
  friend Checked operator-(Checked a, Checked b) {
    return Apply(a, b, [](auto x, auto y, auto* r) { return __builtin_sub_overflow(x, y, r); });
  }
  // Rounded up to a multiple of `unit` (unit > 0).
  Checked RoundUp(uint64_t unit) const {
    if (!value_) return *this;
    const uint64_t rest = *value_ % unit;
    return rest == 0 ? *this : *this + Checked(unit - rest);
  }

 private:
  constexpr Checked() = default;
  template <typename Op>
  static Checked Apply(Checked a, Checked b, Op op) {
    Checked out;
    uint64_t value = 0;
    if (a.value_ && b.value_ && !op(*a.value_, *b.value_, &value)) out.value_ = value;
    return out;
  }
  std::optional<uint64_t> value_;
};

}  // namespace echelon
