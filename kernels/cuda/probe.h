#pragma once
// Whether a CUDA device can be used, and if not, why and what to do: the errors of the CUDA
// backend, each in one place. Pure functions over Runtime; rank and host are added by the worker.

#include <string>

#include "common/result.h"
#include "kernels/cuda/runtime.h"

namespace echelon::cuda {

// Opens device `device` of those the driver shows. kUnsupported where no build of ours could use
// what is there, kUnavailable where the device is taken, kInternal for what we do not know.
Result<DeviceInfo> OpenDevice(Runtime& runtime, int device);

// "CUDA device 0 (NVIDIA H200)"
std::string DeviceName(int device, const DeviceInfo& info);

// An allocation that failed; free and total are read now.
Error MemoryError(Runtime& runtime, int device, const DeviceInfo& info, size_t bytes,
                  const char* what);

// An error found while a step ran.
Error StepError(int device, const DeviceInfo& info, const Outcome& outcome);

}  // namespace echelon::cuda
