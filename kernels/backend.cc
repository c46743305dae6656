#include "kernels/backend.h"

#include "common/strings.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/reference/reference_backend.h"

namespace echelon {

namespace {
constexpr int kThreadsMax = 1024;  // of one backend: a guard against typing errors
}  // namespace

Result<std::unique_ptr<Backend>> MakeBackend(const BackendOptions& options) {
  if (options.threads < 1 || options.threads > kThreadsMax) {
    return InvalidArgument(
        StrCat("threads is ", options.threads, ": must be between 1 and ", kThreadsMax), "threads");
  }
  if (options.name == "cpu" || (options.name == "auto" && cpu::CpuSupported())) {
    ASSIGN_OR_RETURN(const cpu::CpuKernels* kernels, cpu::ChooseKernels(options.isa));
    return std::unique_ptr<Backend>(new cpu::CpuBackend(*kernels, options.threads));
  }
  if (options.name == "reference" || options.name == "auto") {
    return std::unique_ptr<Backend>(new reference::ReferenceBackend(options.threads));
  }
  if (options.name == "cuda") {
    return Unsupported("backend \"cuda\" is not in this build: use \"cpu\" or \"auto\"");
  }
  return InvalidArgument(
      StrCat("backend \"", options.name, "\" is unknown: use auto, cpu, reference or cuda"),
      "backend");
}

}  // namespace echelon
