#include "client/cli/errors.h"

#include "common/strings.h"

namespace echelon {

Error Describe(const ServiceError& error) {
  Error out = error.error;
  std::string where;
  if (!error.error.field.empty()) where += StrCat(", field ", error.error.field);
  if (error.error.rank >= 0) where += StrCat(", rank ", error.error.rank);
  if (!error.error.host.empty()) where += StrCat(" on ", error.error.host);
  out.message = StrCat(error.error.message, " (", ErrorCodeName(error.error.code), where, ")");
  if (error.retry_after_ms >= 0) {
    out.message += StrCat("; try again in ", error.retry_after_ms, " ms");
  }
  // A field of the request is no part of the command line: the service refused it, status 1.
  out.field.clear();
  return out;
}

}  // namespace echelon
