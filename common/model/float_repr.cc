#include "common/model/float_repr.h"

#include <charconv>
#include <cmath>
#include <string_view>

#include "common/check.h"

namespace echelon::chat {

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  // "-d.ddde-308": a sign, 17 digits and a point, e, a sign and three digits are 24 characters.
  char buffer[32];
  const auto [end, error] =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
  CHECK(error == std::errc());
  std::string_view text(buffer, static_cast<size_t>(end - buffer));
  std::string out;
  if (text.front() == '-') {
    out = "-";
    text.remove_prefix(1);
  }
  const size_t e = text.find('e');
  int exponent = 0;
  const bool negative = text[e + 1] == '-';
  std::from_chars(text.data() + e + 2, text.data() + text.size(), exponent);
  if (negative) exponent = -exponent;
  if (exponent < -4 || exponent >= 16) return out.append(text);

  std::string digits(text.substr(0, e));
  if (digits.size() > 1) digits.erase(1, 1);  // the point
  if (exponent < 0)
    return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const size_t before = static_cast<size_t>(exponent) + 1;  // digits in front of the point
  if (digits.size() <= before)
    return out + digits + std::string(before - digits.size(), '0') + ".0";
  return out + digits.substr(0, before) + "." + digits.substr(before);
}

std::string FloatJson(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
  return FloatRepr(value);
}

}  // namespace echelon::chat
