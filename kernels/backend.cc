#include "kernels/backend.h"

#include <chrono>

#include "common/check.h"
#include "common/strings.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/make_backend.h"
#include "kernels/device_link.h"
#include "kernels/reference/reference_backend.h"

namespace echelon {

namespace {
constexpr int kThreadsMax = 1024;  // of one backend: a guard against typing errors
}  // namespace

Result<std::unique_ptr<Backend>> MakeBackend(const BackendOptions& options,
                                             std::string* passed_over) {
  if (options.threads < 1 || options.threads > kThreadsMax) {
    return InvalidArgument(
        StrCat("threads is ", options.threads, ": must be between 1 and ", kThreadsMax), "threads");
  }
  if (options.name == "cuda") return cuda::MakeCudaBackend(options);
  if (options.name == "auto") {
    auto made = cuda::MakeCudaBackend(options);
    if (made.ok()) return made;
    if (passed_over != nullptr) *passed_over = made.error().message;
  }
  if (options.name == "cpu" || (options.name == "auto" && cpu::CpuSupported())) {
    ASSIGN_OR_RETURN(const cpu::CpuKernels* kernels, cpu::ChooseKernels(options.isa));
    return std::unique_ptr<Backend>(new cpu::CpuBackend(*kernels, options.threads));
  }
  if (options.name == "reference" || options.name == "auto") {
    return std::unique_ptr<Backend>(new reference::ReferenceBackend(options.threads));
  }
  return InvalidArgument(
      StrCat("backend \"", options.name, "\" is unknown: use auto, cpu, reference or cuda"),
      "backend");
}

void Backend::AddResidualNorm(Tensor residual, std::span<const float* const> terms, float keep,
                              const float* post_norm, const float* norm, float eps, Tensor out) {
  CHECK(!terms.empty());
  // Ops read what they take as delta.
  const auto term = [&](size_t i) {
    return Tensor(const_cast<float*>(terms[i]), residual.rows, residual.cols);
  };
  Tensor delta = term(0);
  if (terms.size() > 1) {
    delta = out;  // until it is written
    for (int64_t t = 0; t < out.rows; ++t) {
      Upload(term(0).row(t), out.row(t), static_cast<size_t>(out.cols) * sizeof(float));
    }
    for (size_t i = 1; i < terms.size(); ++i) AddResidual(delta, term(i), 1.0f, nullptr, 0.0f);
  }
  AddResidual(residual, delta, keep, post_norm, eps);
  RmsNorm(residual, norm, eps, out);
}

uint64_t Backend::Stamp(void* /*stream*/) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::nanoseconds(now).count());
}

Result<std::unique_ptr<DeviceLink>> Backend::NewLink() {
  return Unsupported(StrCat("backend \"", name(), "\" has no memory but the host's"));
}

// Host memory: whoever holds the logits draws.
void Backend::DrawTokens(const DrawArgs&) {
  CHECK_MSG(false, "this backend's logits lie in host memory");
}

}  // namespace echelon
