#pragma once
// The port of an address, checked: the system's own parsers take 99999999 for 57599.

#include <charconv>
#include <string_view>

namespace echelon {

// What follows the last colon is a port from 0 to 65535, or "*".
inline bool HasValidPort(std::string_view address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos) return false;
  const std::string_view port = address.substr(colon + 1);
  int number = -1;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  const bool whole = error == std::errc() && end == port.data() + port.size();
  return port == "*" || (whole && number >= 0 && number <= 65535);
}

}  // namespace echelon
