#pragma once
// Text in a message of fixed size, as ranks gather it: what is longer is cut off.

#include <cstdio>
#include <string>

namespace echelon {

template <size_t kSize>
void PutText(char (&field)[kSize], const std::string& text) {
  std::snprintf(field, kSize, "%s", text.c_str());
}

}  // namespace echelon
