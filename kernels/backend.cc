#include "kernels/backend.h"

#include "common/strings.h"

namespace echelon {

Result<std::unique_ptr<Backend>> MakeBackend(const BackendOptions& options) {
  return Unsupported(StrCat("backend \"", options.name, "\" is not in this build"));
}

}  // namespace echelon
