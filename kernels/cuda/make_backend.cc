#include "kernels/cuda/make_backend.h"

#include "kernels/cuda/cuda_backend.h"

namespace echelon::cuda {

Result<std::unique_ptr<Backend>> MakeCudaBackend(const BackendOptions& options) {
  ASSIGN_OR_RETURN(auto device, Device::Open(MakeRuntime(), options.device));
  return std::unique_ptr<Backend>(
      new CudaBackend(std::move(device), options.threads, options.timed));
}

}  // namespace echelon::cuda
