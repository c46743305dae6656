// Runtime over the CUDA runtime library, which is linked statically and opens the driver
// (libcuda.so.1) by itself at the first call: a program with it starts on a host without a driver.

#include <cuda_runtime.h>

#include <cstdlib>
#include <cstring>

#include "kernels/cuda/runtime.h"

namespace echelon::cuda {

namespace {

Failure KindOf(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return Failure::kNone;
    case cudaErrorInsufficientDriver: {
      int version = 0;
      cudaDriverGetVersion(&version);
      return version == 0 ? Failure::kNoDriver : Failure::kDriverTooOld;
    }
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
      return Failure::kNoDevice;
    case cudaErrorDevicesUnavailable:
      return Failure::kDeviceBusy;
    case cudaErrorMemoryAllocation:
      return Failure::kOutOfMemory;
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorInvalidPtx:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorJitCompilerNotFound:
      return Failure::kNoKernelImage;
    default:
      return Failure::kOther;
  }
}

// The library keeps what a call has returned, too, and would tell it again as an error of the
// launches. What it keeps of these stays; so does the error of a lost device.
void Forget(cudaError_t error) {
  if (cudaPeekAtLastError() == error) cudaGetLastError();
}

Outcome OutcomeOf(cudaError_t error) {
  if (error == cudaSuccess) return {};
  const Outcome outcome = {KindOf(error), static_cast<int>(error),
                           std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error)};
  Forget(error);
  return outcome;
}

cudaStream_t Of(Stream stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t OfEvent(Event event) { return static_cast<cudaEvent_t>(event); }

// Compiled for the same architectures as all kernels: whether there is code for a device.
__global__ void AnyKernel() {}

class CudaRuntime : public Runtime {
 public:
  int DriverVersion() override {
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
  }
  int ToolkitVersion() override { return CUDART_VERSION; }
  Outcome DeviceCount(int* count) override { return OutcomeOf(cudaGetDeviceCount(count)); }
  Outcome Describe(int device, DeviceInfo* info) override {
    cudaDeviceProp properties;
    const cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (error != cudaSuccess) return OutcomeOf(error);
    *info = {properties.name,           properties.major,
             properties.minor,          properties.multiProcessorCount,
             properties.totalGlobalMem, static_cast<uint64_t>(properties.l2CacheSize)};
    static_assert(sizeof(properties.uuid) == sizeof(info->uuid));
    std::memcpy(info->uuid.data(), &properties.uuid, sizeof(info->uuid));
    int mps = 0;
    const cudaError_t asked = cudaDeviceGetAttribute(&mps, cudaDevAttrMpsEnabled, device);
    info->mps = asked == cudaSuccess && mps != 0;
    return OutcomeOf(asked);
  }
  Outcome Open(int device) override {
    cudaError_t error = cudaSetDevice(device);
    if (error == cudaSuccess) error = cudaFree(nullptr);
    cudaFuncAttributes attributes;
    if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, AnyKernel);
    return OutcomeOf(error);
  }
  Outcome FreeMemory(uint64_t* free_bytes, uint64_t* total_bytes) override {
    size_t free = 0, total = 0;
    const cudaError_t error = cudaMemGetInfo(&free, &total);
    *free_bytes = free;
    *total_bytes = total;
    return OutcomeOf(error);
  }

  Outcome Allocate(size_t bytes, void** memory) override {
    return OutcomeOf(cudaMalloc(memory, bytes));
  }
  void Free(void* memory) override { cudaFree(memory); }
  Outcome AllocatePinned(size_t bytes, void** memory) override {
    return OutcomeOf(cudaMallocHost(memory, bytes));
  }
  void FreePinned(void* memory) override { cudaFreeHost(memory); }

  Outcome ShareMemory(void* memory, MemoryHandle* handle) override {
    cudaIpcMemHandle_t made;
    static_assert(sizeof(made) == sizeof(*handle));
    const cudaError_t error = cudaIpcGetMemHandle(&made, memory);
    if (error == cudaSuccess) std::memcpy(handle->data(), &made, sizeof(made));
    return OutcomeOf(error);
  }
  Outcome MapMemory(const MemoryHandle& handle, void** memory) override {
    cudaIpcMemHandle_t of;
    std::memcpy(&of, handle.data(), sizeof(of));
    return OutcomeOf(cudaIpcOpenMemHandle(memory, of, cudaIpcMemLazyEnablePeerAccess));
  }
  void UnmapMemory(void* memory) override { cudaIpcCloseMemHandle(memory); }
  Outcome EnablePeer(int device) override {
    int own = 0, can = 0;
    cudaError_t error = cudaGetDevice(&own);
    if (error == cudaSuccess) error = cudaDeviceCanAccessPeer(&can, own, device);
    if (error == cudaSuccess) {
      error = can != 0 ? cudaDeviceEnablePeerAccess(device, 0) : cudaErrorPeerAccessUnsupported;
    }
    if (error != cudaErrorPeerAccessAlreadyEnabled) return OutcomeOf(error);
    Forget(error);
    return {};
  }

  Outcome NewStream(bool urgent, Stream* stream) override {
    int least = 0, greatest = 0;
    cudaError_t error = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    cudaStream_t made = nullptr;
    if (error == cudaSuccess) {
      const int priority = urgent ? greatest : least;
      error = cudaStreamCreateWithPriority(&made, cudaStreamNonBlocking, priority);
    }
    *stream = made;
    return OutcomeOf(error);
  }
  void FreeStream(Stream stream) override { cudaStreamDestroy(Of(stream)); }
  Outcome CopyToDevice(void* to, const void* from, size_t bytes, Stream stream) override {
    return OutcomeOf(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, Of(stream)));
  }
  Outcome CopyToHost(void* to, const void* from, size_t bytes, Stream stream) override {
    return OutcomeOf(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, Of(stream)));
  }
  Outcome CopyOnDevice(void* to, const void* from, size_t bytes, Stream stream) override {
    return OutcomeOf(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, Of(stream)));
  }
  Outcome Clear(void* memory, size_t bytes, Stream stream) override {
    return OutcomeOf(cudaMemsetAsync(memory, 0, bytes, Of(stream)));
  }
  Outcome Wait(Stream stream) override { return OutcomeOf(cudaStreamSynchronize(Of(stream))); }
  Outcome LastError() override { return OutcomeOf(cudaGetLastError()); }

  // Relaxed to this thread: others may allocate meanwhile.
  Outcome BeginCapture(Stream stream) override {
    return OutcomeOf(cudaStreamBeginCapture(Of(stream), cudaStreamCaptureModeThreadLocal));
  }
  Outcome EndCapture(Stream stream, Graph* graph) override {
    *graph = nullptr;
    cudaGraph_t captured = nullptr;
    cudaError_t error = cudaStreamEndCapture(Of(stream), &captured);
    cudaGraphExec_t runnable = nullptr;
    // Else messages lose the priority of the link's stream.
    const auto flags = cudaGraphInstantiateFlagUseNodePriority;
    if (error == cudaSuccess) error = cudaGraphInstantiate(&runnable, captured, flags);
    if (captured != nullptr) cudaGraphDestroy(captured);
    if (error == cudaSuccess) *graph = runnable;
    return OutcomeOf(error);
  }
  Outcome LaunchGraph(Graph graph, Stream stream) override {
    return OutcomeOf(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), Of(stream)));
  }
  void FreeGraph(Graph graph) override {
    cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph));
  }

  Outcome NewEvent(bool timed, Event* event) override {
    cudaEvent_t made = nullptr;
    const cudaError_t error =
        cudaEventCreateWithFlags(&made, timed ? cudaEventDefault : cudaEventDisableTiming);
    *event = made;
    return OutcomeOf(error);
  }
  void FreeEvent(Event event) override { cudaEventDestroy(OfEvent(event)); }
  Outcome Record(Event event, Stream stream) override {
    return OutcomeOf(cudaEventRecord(OfEvent(event), Of(stream)));
  }
  Outcome WaitFor(Stream stream, Event event) override {
    return OutcomeOf(cudaStreamWaitEvent(Of(stream), OfEvent(event), 0));
  }
  Outcome WaitEvent(Event event) override {
    return OutcomeOf(cudaEventSynchronize(OfEvent(event)));
  }
  Outcome Query(Event event, bool* happened) override {
    const cudaError_t error = cudaEventQuery(OfEvent(event));
    *happened = error == cudaSuccess;
    if (error != cudaErrorNotReady) return OutcomeOf(error);
    Forget(error);
    return {};
  }
  Outcome Milliseconds(Event from, Event to, float* elapsed) override {
    return OutcomeOf(cudaEventElapsedTime(elapsed, OfEvent(from), OfEvent(to)));
  }
};

}  // namespace

std::unique_ptr<Runtime> MakeRuntime() {
  // Else the driver loads a kernel when it is first launched, which may wait for kernels that run;
  // and one that runs may wait for another rank's, which is about to be launched.
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);
  // Streams beyond this many (8 else, 32 at most) share queues of the device, where one that waits
  // holds up another: a rank has its own, one for each group it is in, and NCCL's.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
  return std::make_unique<CudaRuntime>();
}

}  // namespace echelon::cuda
