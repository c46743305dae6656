#pragma once
// The one door to the CUDA backend, in every build: one without CUDA says so.

#include <memory>

#include "common/result.h"
#include "kernels/backend.h"

namespace echelon::cuda {

// kUnsupported where this build or this host cannot; see kernels/cuda/probe.h.
Result<std::unique_ptr<Backend>> MakeCudaBackend(const BackendOptions& options);

}  // namespace echelon::cuda
