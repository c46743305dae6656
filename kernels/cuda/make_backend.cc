#include "kernels/cuda/make_backend.h"

#include <algorithm>
#include <utility>

#include "kernels/cuda/cuda_backend.h"

namespace echelon::cuda {

Result<std::unique_ptr<Backend>> MakeCudaBackend(const BackendOptions& options) {
  auto runtime = MakeRuntime();
  int count = 0, number = std::max(options.device, 0);
  if (options.device < 0 && runtime->DeviceCount(&count).ok() && count > 0) {
    number = options.rank_on_host % count;
  }
  ASSIGN_OR_RETURN(auto device, Device::Open(std::move(runtime), number));
  return std::unique_ptr<Backend>(
      new CudaBackend(std::move(device), options.threads, options.timed));
}

}  // namespace echelon::cuda
