#pragma once
// TokenDraws: tokens drawn on the device and their way to the host, one batch of rows a step. On
// the device a step's tokens take the place of those of the step before, whose copy was enqueued
// before them; on the host kMarksMax steps have a place each. One thread.

#include <array>
#include <cstdint>
#include <span>
#include <vector>

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

  // What LaunchDraw takes; what was drawn is written by Collect. The same batch may be prepared
  // twice.
  DrawParams Prepare(int place, const DrawArgs& args);
  // Device memory of the tokens drawn last, the same as long as batches do not grow; null after a
  // failure of the device.
  const DrawnToken* Last();
  // Enqueues the copy of the step's tokens to page-locked memory; as the step ends.
  void Download(int place);
  // After the wait; `good`: the tokens are there.
  void Collect(int place, bool good);

 private:
  struct Place {
    char* pinned = nullptr;
    size_t bytes = 0;
    std::span<DrawnToken> drawn;
    std::span<DrawnScores> scores;  // behind `drawn`
  };
  // Adds room for what slices find, for changes and for scores; false after a failure.
  bool PrepareSearch(const DrawArgs& args, DrawParams& params);
  bool PrepareChanges(const DrawArgs& args, DrawParams& params);
  bool PrepareScores(const DrawArgs& args, DrawParams& params);
  bool ReservePinned(size_t bytes, Place& place);

  Device& device_;
  Staging& staging_;
  DeviceMemory tokens_, scores_, scratch_, raw_, best_;
  std::array<Place, kMarksMax> places_;
  std::vector<char*> outgrown_;  // page-locked; null where there was none
};

}  // namespace echelon::cuda
