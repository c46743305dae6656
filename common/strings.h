#pragma once
// Small text helpers, with nothing but the standard library behind them.

#include <cstddef>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace echelon {

namespace internal {
inline void Append(std::string& out, std::string_view text) { out.append(text); }
inline void Append(std::string& out, const std::string& text) { out.append(text); }
inline void Append(std::string& out, const char* text) { out.append(text); }
inline void Append(std::string& out, char c) { out.push_back(c); }
inline void Append(std::string& out, bool b) { out.append(b ? "true" : "false"); }
void AppendDouble(std::string& out, double value);
template <typename T>
requires std::is_arithmetic_v<T>
void Append(std::string& out, T value) {
  if constexpr (std::is_floating_point_v<T>) {
    AppendDouble(out, value);
  } else {
    out.append(std::to_string(value));
  }
}
}  // namespace internal

// StrCat("rank ", 3, ": ", 0.5) == "rank 3: 0.5"
template <typename... Parts>
std::string StrCat(const Parts&... parts) {
  std::string out;
  (internal::Append(out, parts), ...);
  return out;
}

std::string Join(const std::vector<std::string>& parts, std::string_view separator);
std::vector<std::string> Split(std::string_view text, char separator);
std::string HumanBytes(double bytes);  // "96.4 MB"
// The known name nearest to `name` by edit distance, or "" when none is near: for error messages.
std::string NearestName(std::string_view name, const std::vector<std::string>& known);
bool IsValidUtf8(std::string_view bytes);

}  // namespace echelon
