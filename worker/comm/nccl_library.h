#pragma once
// NcclLibrary: what is asked of NCCL. The real one is loaded when a group on devices is made, so
// that a worker runs where there is none; tests play one among threads. Communicators are made not
// to block: any call may leave its work going on (kInProgress), and State is asked until it is
// done. Thread: the rank's. Source: nccl.h of NCCL 2.28.

#include <array>
#include <cstddef>
#include <memory>
#include <string>

#include "common/result.h"

namespace echelon {

using NcclComm = void*;  // an ncclComm_t

struct NcclId {
  std::array<char, 128> bytes = {};
};

struct NcclOutcome {
  enum State { kDone, kInProgress, kFailed };
  State state = kDone;
  std::string error;  // of kFailed: NCCL's own words
};

class NcclLibrary {
 public:
  virtual ~NcclLibrary() = default;
  virtual int Version() = 0;  // 22809 = 2.28.9
  virtual Result<NcclId> NewId() = 0;
  // Joins as one of the `size` ranks that were given this id; on the thread's current device.
  virtual NcclOutcome Init(const NcclId& id, int size, int rank, NcclComm* comm) = 0;
  virtual NcclOutcome State(NcclComm comm) = 0;
  // Enqueued on a cudaStream_t. Between GroupStart and GroupEnd sends and receives are begun
  // together. recv (size * bytes); send may be this rank's part of it.
  virtual NcclOutcome AllGather(NcclComm comm, const void* send, void* recv, size_t bytes,
                                void* stream) = 0;
  virtual NcclOutcome Send(NcclComm comm, const void* data, size_t bytes, int to, void* stream) = 0;
  virtual NcclOutcome Recv(NcclComm comm, void* data, size_t bytes, int from, void* stream) = 0;
  virtual NcclOutcome GroupStart() = 0;
  virtual NcclOutcome GroupEnd() = 0;
};

std::string NcclVersionText(int version);  // "2.28.9"

// libnccl.so.2 from where the loader looks. An error where this build has no NCCL in it, or the
// machine has none.
Result<std::unique_ptr<NcclLibrary>> MakeNcclLibrary();

}  // namespace echelon
