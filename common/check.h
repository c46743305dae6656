#pragma once
// CHECK is for our own bugs: a broken invariant ends the process with the place and the reason.
// It is never reachable from input; what the world does wrong is a Result (result.h).

#include <string>

namespace echelon {
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              const std::string& message);
}  // namespace echelon

#define CHECK(condition)                                                          \
  do {                                                                            \
    if (!(condition)) ::echelon::CheckFailed(__FILE__, __LINE__, #condition, ""); \
  } while (false)
#define CHECK_MSG(condition, message)                                                  \
  do {                                                                                 \
    if (!(condition)) ::echelon::CheckFailed(__FILE__, __LINE__, #condition, message); \
  } while (false)
