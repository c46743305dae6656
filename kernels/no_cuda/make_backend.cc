// MakeCudaBackend of a build without CUDA.

#include "kernels/cuda/make_backend.h"

namespace echelon::cuda {

Result<std::unique_ptr<Backend>> MakeCudaBackend(const BackendOptions&) {
  return Unsupported(
      "backend \"cuda\" is not in this build: configure with -DECHELON_CUDA=ON where the CUDA "
      "toolkit is, or use backend \"cpu\"");
}

}  // namespace echelon::cuda
