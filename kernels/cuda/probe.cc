#include "kernels/cuda/probe.h"

#include "common/strings.h"

namespace echelon::cuda {

namespace {

constexpr int kMajorMin =
    8;  // compute capability: Ampere, for its asynchronous copies and bfloat16
constexpr const char* kOrCpu = ", or use backend \"cpu\"";

std::string VersionText(int version) { return StrCat(version / 1000, ".", version % 1000 / 10); }

// Why no device can be asked at all, from the first call that touches the driver.
Error DriverError(Runtime& runtime, const Outcome& outcome) {
  switch (outcome.failure) {
    case Failure::kNoDriver:
      return Unsupported(
          StrCat("backend \"cuda\": this host has no NVIDIA driver (libcuda.so.1): "
                 "install one for CUDA ",
                 VersionText(runtime.ToolkitVersion()), " or later", kOrCpu));
    case Failure::kDriverTooOld:
      return Unsupported(StrCat("backend \"cuda\": the NVIDIA driver of this host serves CUDA ",
                                VersionText(runtime.DriverVersion()), ", this build needs ",
                                VersionText(runtime.ToolkitVersion()), ": update the driver",
                                kOrCpu));
    case Failure::kNoDevice:
      return Unsupported(
          StrCat("backend \"cuda\": the NVIDIA driver shows no GPU: look at "
                 "nvidia-smi and CUDA_VISIBLE_DEVICES",
                 kOrCpu));
    default:
      return InternalError(StrCat("backend \"cuda\": the NVIDIA driver does not answer (",
                                  outcome.text, "): look at nvidia-smi and the kernel's log",
                                  kOrCpu));
  }
}

}  // namespace

std::string DeviceName(int device, const DeviceInfo& info) {
  return StrCat("CUDA device ", device, " (", info.name, ")");
}

Result<DeviceInfo> OpenDevice(Runtime& runtime, int device) {
  int count = 0;
  if (const Outcome asked = runtime.DeviceCount(&count); !asked.ok()) {
    return DriverError(runtime, asked);
  }
  if (count == 0) return DriverError(runtime, {Failure::kNoDevice, 0, ""});
  if (device < 0 || device >= count) {
    return Unsupported(StrCat("backend \"cuda\": CUDA device ", device, " was asked for and the ",
                              "driver shows ", count,
                              ": start fewer ranks on this host or look at "
                              "CUDA_VISIBLE_DEVICES"));
  }
  DeviceInfo info;
  if (const Outcome described = runtime.Describe(device, &info); !described.ok()) {
    return DriverError(runtime, described);
  }
  if (info.major < kMajorMin) {
    return Unsupported(StrCat(DeviceName(device, info), " has compute capability ", info.major, ".",
                              info.minor, ", this build needs ", kMajorMin, ".0 or later", kOrCpu));
  }
  const Outcome opened = runtime.Open(device);
  if (opened.ok()) return info;
  if (opened.failure == Failure::kDeviceBusy) {
    return Unavailable(StrCat(DeviceName(device, info),
                              " is taken by another process that uses it "
                              "alone: end that one (nvidia-smi names it) or show another device in "
                              "CUDA_VISIBLE_DEVICES",
                              kOrCpu));
  }
  if (opened.failure == Failure::kOutOfMemory) {
    return ResourceExhausted(StrCat(DeviceName(device, info),
                                    " has no memory left for a process to "
                                    "begin: end another one that uses it (nvidia-smi names them)",
                                    kOrCpu));
  }
  if (opened.failure == Failure::kNoKernelImage) {
    return Unsupported(StrCat(DeviceName(device, info), " has compute capability ", info.major, ".",
                              info.minor, ", and this build has no code for it (", opened.text,
                              "): build with -DECHELON_CUDA_ARCHITECTURES=", info.major, info.minor,
                              kOrCpu));
  }
  return DriverError(runtime, opened);
}

Error MemoryError(Runtime& runtime, int device, const DeviceInfo& info, size_t bytes,
                  const char* what) {
  uint64_t free = 0, total = info.memory_bytes;
  runtime.FreeMemory(&free, &total);
  return ResourceExhausted(StrCat(
      DeviceName(device, info), ": ", what, " needs ", HumanBytes(static_cast<double>(bytes)), ", ",
      HumanBytes(static_cast<double>(free)), " of ", HumanBytes(static_cast<double>(total)),
      " are free: use fewer KV pages (worker.kv_memory_bytes), fewer rows in a step "
      "(scheduler.step_tokens_max), a checkpoint with fewer bits, more ranks, or end other "
      "programs on the device"));
}

Error StepError(int device, const DeviceInfo& info, const Outcome& outcome) {
  return InternalError(StrCat(DeviceName(device, info), " failed during a step (error ",
                              outcome.code, ", ", outcome.text,
                              "): the device is lost to this process and the worker group starts "
                              "again; if it comes back, look at nvidia-smi -q and the kernel's log "
                              "(Xid)"));
}

}  // namespace echelon::cuda
