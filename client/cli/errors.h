#pragma once
// Exit statuses of `echelon`: 0 success, 2 bad usage or a refused layout, 1 everything else.

#include <string>

#include "client/cpp/events.h"
#include "common/result.h"

namespace echelon {

inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;
// Error::field of an error that the command line itself (or the layout it asks for) caused.
inline constexpr char kCommandLineField[] = "command line";

inline Error UsageError(std::string message) {
  return InvalidArgument(std::move(message), kCommandLineField);
}
inline int ExitStatusOf(const Error& error) {
  return error.field == kCommandLineField ? kExitUsage : kExitFailure;
}
// What a request ended with, as one line: message, field, rank and host where they apply.
Error Describe(const ServiceError& error);

}  // namespace echelon
