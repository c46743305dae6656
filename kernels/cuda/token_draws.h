#pragma once
// TokenDraws: tokens drawn on the device and their way to the host, one batch of rows between two
// waits. One thread.

#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/staging.h"

namespace echelon::cuda {

class TokenDraws {
 public:
  TokenDraws(Device& device, Staging& staging) : device_(device), staging_(staging) {}
  ~TokenDraws();
  TokenDraws(const TokenDraws&) = delete;
  TokenDraws& operator=(const TokenDraws&) = delete;

  // What LaunchDraw takes; `drawn` is written by Collect. The same batch may be prepared twice.
  DrawParams Prepare(Tensor logits, std::span<const DrawRow> rows, std::span<DrawnToken> drawn);
  // Enqueues the copy to page-locked memory; before the wait.
  void Download();
  // After the wait.
  void Collect();

 private:
  bool Reserve(size_t bytes);

  Device& device_;
  Staging& staging_;
  DeviceMemory memory_;     // drawn tokens, then scratch of the draw
  char* pinned_ = nullptr;  // as many bytes as memory_
  std::span<DrawnToken> drawn_;
};

}  // namespace echelon::cuda
