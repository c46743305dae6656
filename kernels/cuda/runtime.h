#pragma once
// Runtime: what the CUDA backend asks of NVIDIA's runtime and driver, as an interface, so that
// every failure of a driver can be played in a test, and the whole backend runs on the host under
// the emulation. No CUDA header is needed to include it. One host thread.

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace echelon::cuda {

using Stream = void*;  // a cudaStream_t
using Event = void*;   // a cudaEvent_t
using Graph = void*;   // a cudaGraphExec_t

enum class Failure : uint8_t {
  kNone,
  kNoDriver,      // no libcuda on this host
  kDriverTooOld,  // older than the toolkit of this build
  kNoDevice,
  kDeviceBusy,  // in exclusive use, or prohibited
  kOutOfMemory,
  kNoKernelImage,  // the device's architecture is not in this build
  kOther,          // code and text say what
};

// What a call came to. `text` is the runtime's own name and words for it.
struct Outcome {
  Failure failure = Failure::kNone;
  int code = 0;
  std::string text;
  bool ok() const { return failure == Failure::kNone; }
};

struct DeviceInfo {
  std::string name;  // "NVIDIA H200"
  int major = 0, minor = 0;
  int multiprocessors = 0;
  uint64_t memory_bytes = 0;
  uint64_t cache_bytes = 0;  // level 2
  std::array<uint8_t, 16> uuid = {};
  bool mps = false;  // kernels of several processes run at once
};
using MemoryHandle = std::array<std::byte, 64>;  // a cudaIpcMemHandle_t

class Runtime {
 public:
  virtual ~Runtime() = default;

  // CUDA versions as 1000 * major + 10 * minor; a driver's is 0 where there is none.
  virtual int DriverVersion() = 0;
  virtual int ToolkitVersion() = 0;
  virtual Outcome DeviceCount(int* count) = 0;
  virtual Outcome Describe(int device, DeviceInfo* info) = 0;
  // Makes the device the calling thread's; takes it into use. Fails where no kernel of this build
  // could run there.
  virtual Outcome Open(int device) = 0;
  virtual Outcome FreeMemory(uint64_t* free_bytes, uint64_t* total_bytes) = 0;

  virtual Outcome Allocate(size_t bytes, void** memory) = 0;
  virtual void Free(void* memory) = 0;
  virtual Outcome AllocatePinned(size_t bytes, void** memory) = 0;  // host memory for copies
  virtual void FreePinned(void* memory) = 0;

  // Memory that Allocate gave, for other processes of the host, and theirs for this one.
  virtual Outcome ShareMemory(void* memory, MemoryHandle* handle) = 0;
  virtual Outcome MapMemory(const MemoryHandle& handle, void** memory) = 0;
  virtual void UnmapMemory(void* memory) = 0;
  // This thread's device may use memory of `device` from now on; done before is fine.
  virtual Outcome EnablePeer(int device) = 0;

  // Blocks of an urgent stream's kernels go before those of other streams that wait for a place.
  virtual Outcome NewStream(bool urgent, Stream* stream) = 0;
  virtual void FreeStream(Stream stream) = 0;
  virtual Outcome CopyToDevice(void* to, const void* from, size_t bytes, Stream stream) = 0;
  virtual Outcome CopyToHost(void* to, const void* from, size_t bytes, Stream stream) = 0;
  virtual Outcome CopyOnDevice(void* to, const void* from, size_t bytes, Stream stream) = 0;
  virtual Outcome Clear(void* memory, size_t bytes, Stream stream) = 0;  // with zeros
  virtual Outcome Wait(Stream stream) = 0;
  // Of the launches since the last call; forgets it unless the device is lost.
  virtual Outcome LastError() = 0;

  // What is enqueued between these is not run but becomes a graph, which LaunchGraph runs.
  virtual Outcome BeginCapture(Stream stream) = 0;
  virtual Outcome EndCapture(Stream stream, Graph* graph) = 0;  // null after an error
  virtual Outcome LaunchGraph(Graph graph, Stream stream) = 0;
  virtual void FreeGraph(Graph graph) = 0;

  // Milliseconds asks for timed ones; those that only order cost less.
  virtual Outcome NewEvent(bool timed, Event* event) = 0;
  virtual void FreeEvent(Event event) = 0;
  virtual Outcome Record(Event event, Stream stream) = 0;
  // What is enqueued next runs behind what the event stands for; in a capture, too.
  virtual Outcome WaitFor(Stream stream, Event event) = 0;
  virtual Outcome WaitEvent(Event event) = 0;  // of the host, for all that was enqueued before it
  virtual Outcome Query(Event event, bool* happened) = 0;
  virtual Outcome Milliseconds(Event from, Event to, float* elapsed) = 0;  // both have happened
};

// NVIDIA's own, or the emulation's where a test program is linked with it.
std::unique_ptr<Runtime> MakeRuntime();

}  // namespace echelon::cuda
