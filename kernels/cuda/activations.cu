// Rows of floats into the form of products (split_rows.cuh), where the op that computed them did
// not store them so: a warp for a row's group.

#include "kernels/cuda/split_rows.cuh"

namespace echelon::cuda {

namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) SplitRowsKernel(Rows x, int32_t lead, SplitRows to) {
  const int64_t at = int64_t{blockIdx.y} * kThreads + threadIdx.x, token = blockIdx.x;
  const int64_t col = at - lead;
  const bool there = col >= 0 && col < x.cols;
  StoreSplit(to, token, at / kGroup, there ? x.data[token * x.stride + col] : 0.0f);
}

}  // namespace

void LaunchSplitRows(Stream stream, Rows x, int32_t lead, const SplitRows& to) {
  // Rows in x: of y a grid has 65,535 at most.
  const Grid grid = {static_cast<unsigned>(x.rows),
                     static_cast<unsigned>((to.groups * kGroup + kThreads - 1) / kThreads)};
  Launch(stream, grid, kThreads, 0, SplitRowsKernel, x, lead, to);
}

}  // namespace echelon::cuda
