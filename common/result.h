#pragma once
// Result<T>: a value, or an Error that says what failed, where, and what to do about it.
// Everything the world can do wrong (files, peers, clients, configuration) travels this way.

#include <string>
#include <utility>
#include <variant>

#include "common/check.h"

namespace echelon {

// The codes a client sees, in lower case with underscores (ErrorCodeName).
enum class ErrorCode {
  kInvalidArgument,    // the caller's input is wrong; repeating it cannot help
  kNotFound,           // a file, tensor, request or model that is not there
  kCorrupt,            // a file or message whose bytes contradict themselves
  kUnsupported,        // well-formed, but not something this build can do
  kResourceExhausted,  // a limit was reached (queue, memory, context): see the message
  kUnavailable,        // the worker group is down or still starting; retry later
  kDeadlineExceeded,   // the request's own deadline, or a wait with a limit
  kCancelled,          // the client asked for it
  kInternal,           // our fault, or a dead worker
};
const char* ErrorCodeName(ErrorCode code);

struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;  // what, where, remedy: one line
  std::string field;    // the offending field of the input, or empty
  int rank = -1;        // the worker rank it happened on, or -1
  std::string host;     // the host it happened on, or empty
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}      // NOLINT: implicit by design
  Result(Error error) : state_(std::move(error)) {}  // NOLINT
  bool ok() const { return std::holds_alternative<T>(state_); }
  T& value() & {
    CHECK_MSG(ok(), message());
    return std::get<T>(state_);
  }
  const T& value() const& {
    CHECK_MSG(ok(), message());
    return std::get<T>(state_);
  }
  T&& value() && {
    CHECK_MSG(ok(), message());
    return std::get<T>(std::move(state_));
  }
  const Error& error() const { return std::get<Error>(state_); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::string message() const { return ok() ? "" : std::get<Error>(state_).message; }
  std::variant<T, Error> state_;
};

struct Unit {};
class [[nodiscard]] Status : public Result<Unit> {
 public:
  Status() : Result<Unit>(Unit{}) {}
  Status(Error error) : Result<Unit>(std::move(error)) {}  // NOLINT
};

inline Error InvalidArgument(std::string message, std::string field = "") {
  return Error{ErrorCode::kInvalidArgument, std::move(message), std::move(field)};
}
inline Error Corrupt(std::string message, std::string field = "") {
  return Error{ErrorCode::kCorrupt, std::move(message), std::move(field)};
}
inline Error NotFound(std::string message) {
  return Error{ErrorCode::kNotFound, std::move(message)};
}
inline Error Unsupported(std::string message) {
  return Error{ErrorCode::kUnsupported, std::move(message)};
}
inline Error ResourceExhausted(std::string message) {
  return Error{ErrorCode::kResourceExhausted, std::move(message)};
}
inline Error Unavailable(std::string message) {
  return Error{ErrorCode::kUnavailable, std::move(message)};
}
inline Error InternalError(std::string message) {
  return Error{ErrorCode::kInternal, std::move(message)};
}

}  // namespace echelon

#define ECHELON_CONCAT_INNER(a, b) a##b
#define ECHELON_CONCAT(a, b) ECHELON_CONCAT_INNER(a, b)
// RETURN_IF_ERROR(DoIt());            hands an error on to the caller.
#define RETURN_IF_ERROR(expression)            \
  do {                                         \
    auto&& status_ = (expression);             \
    if (!status_.ok()) return status_.error(); \
  } while (false)
// ASSIGN_OR_RETURN(auto x, Make());   binds the value or hands the error on.
#define ASSIGN_OR_RETURN(declaration, expression) \
  ASSIGN_OR_RETURN_INNER(ECHELON_CONCAT(result_, __LINE__), declaration, expression)
#define ASSIGN_OR_RETURN_INNER(result, declaration, expression) \
  auto result = (expression);                                   \
  if (!result.ok()) return result.error();                      \
  declaration = std::move(result).value()
