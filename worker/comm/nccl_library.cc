#include "worker/comm/nccl_library.h"

#include "common/strings.h"

#ifdef ECHELON_HAS_NCCL
#include <dlfcn.h>
#include <nccl.h>

#include <cstring>
#endif

namespace echelon {

std::string NcclVersionText(int version) {
  // From 2.9 on the minor version has two digits before those of the patch.
  const int major = version >= 10000 ? version / 10000 : version / 1000;
  return StrCat(major, ".", version % (version >= 10000 ? 10000 : 1000) / 100, ".", version % 100);
}

#ifdef ECHELON_HAS_NCCL

namespace {

static_assert(sizeof(NcclId) == sizeof(ncclUniqueId));

// Never unloaded: its threads run until the process ends.
class LoadedNccl final : public NcclLibrary {
 public:
  // The name of what is missing, or empty.
  std::string Load(void* library) {
    std::string missing;
    const auto find = [&](const char* name, auto& function) {
      function =
          reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      if (function == nullptr && missing.empty()) missing = name;
    };
    find("ncclGetVersion", get_version_);
    find("ncclGetUniqueId", get_unique_id_);
    find("ncclCommInitRankConfig", init_);
    find("ncclCommGetAsyncError", get_async_error_);
    find("ncclGetErrorString", error_string_);
    find("ncclGetLastError", last_error_);
    find("ncclAllGather", all_gather_);
    find("ncclSend", send_);
    find("ncclRecv", recv_);
    find("ncclGroupStart", group_start_);
    find("ncclGroupEnd", group_end_);
    return missing;
  }

  int Version() override {
    int version = 0;
    get_version_(&version);
    return version;
  }
  Result<NcclId> NewId() override {
    ncclUniqueId made;
    const NcclOutcome outcome = Of(get_unique_id_(&made), nullptr);
    if (outcome.state == NcclOutcome::kFailed) {
      return Unavailable(StrCat("NCCL makes no id for a group: ", outcome.error,
                                "; see NCCL_DEBUG=WARN, and NCCL_SOCKET_IFNAME for its interface"));
    }
    NcclId id;
    std::memcpy(id.bytes.data(), made.internal, sizeof(made.internal));
    return id;
  }
  NcclOutcome Init(const NcclId& id, int size, int rank, NcclComm* comm) override {
    ncclUniqueId theirs;
    std::memcpy(theirs.internal, id.bytes.data(), sizeof(theirs.internal));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t made = nullptr;
    const ncclResult_t result = init_(&made, size, theirs, rank, &config);
    *comm = made;
    return Of(result, made);
  }
  NcclOutcome State(NcclComm comm) override {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = get_async_error_(Handle(comm), &state);
    return Of(asked == ncclSuccess ? state : asked, comm);
  }
  NcclOutcome AllGather(NcclComm comm, const void* send, void* recv, size_t bytes,
                        void* stream) override {
    return Of(all_gather_(send, recv, bytes, ncclInt8, Handle(comm), Stream(stream)), comm);
  }
  NcclOutcome Send(NcclComm comm, const void* data, size_t bytes, int to, void* stream) override {
    return Of(send_(data, bytes, ncclInt8, to, Handle(comm), Stream(stream)), comm);
  }
  NcclOutcome Recv(NcclComm comm, void* data, size_t bytes, int from, void* stream) override {
    return Of(recv_(data, bytes, ncclInt8, from, Handle(comm), Stream(stream)), comm);
  }
  NcclOutcome GroupStart() override { return Of(group_start_(), nullptr); }
  NcclOutcome GroupEnd() override { return Of(group_end_(), nullptr); }

 private:
  static ncclComm_t Handle(NcclComm comm) { return static_cast<ncclComm_t>(comm); }
  static cudaStream_t Stream(void* stream) { return static_cast<cudaStream_t>(stream); }
  NcclOutcome Of(ncclResult_t result, NcclComm comm) const {
    if (result == ncclSuccess) return {};
    if (result == ncclInProgress) return {NcclOutcome::kInProgress, ""};
    const char* const last = last_error_(Handle(comm));
    std::string text = error_string_(result);
    if (last != nullptr && *last != '\0') text += StrCat(" (", last, ")");
    return {NcclOutcome::kFailed, text};
  }

  decltype(&ncclGetVersion) get_version_ = nullptr;
  decltype(&ncclGetUniqueId) get_unique_id_ = nullptr;
  decltype(&ncclCommInitRankConfig) init_ = nullptr;
  decltype(&ncclCommGetAsyncError) get_async_error_ = nullptr;
  decltype(&ncclGetErrorString) error_string_ = nullptr;
  decltype(&ncclGetLastError) last_error_ = nullptr;
  decltype(&ncclAllGather) all_gather_ = nullptr;
  decltype(&ncclSend) send_ = nullptr;
  decltype(&ncclRecv) recv_ = nullptr;
  decltype(&ncclGroupStart) group_start_ = nullptr;
  decltype(&ncclGroupEnd) group_end_ = nullptr;
};

// Earlier ones with communicators that do not block write a communicator's handle when it has
// joined, through the pointer that Init was given.
constexpr int kVersionMin = NCCL_VERSION(2, 18, 1);

}  // namespace

Result<std::unique_ptr<NcclLibrary>> MakeNcclLibrary() {
  // All-gathers in captured graphs would have NCCL register their buffers, by default and each rank
  // when it captures; there are reports of groups that then stand still (NCCL issue 2389).
  setenv("NCCL_GRAPH_REGISTER", "0", 0);
  void* const library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return Unsupported(StrCat("NCCL cannot be loaded: ", dlerror(),
                              "; install libnccl2, or add its folder to LD_LIBRARY_PATH"));
  }
  auto loaded = std::make_unique<LoadedNccl>();
  const std::string missing = loaded->Load(library);
  if (!missing.empty()) {
    return Unsupported(StrCat("libnccl.so.2 has no ", missing, ": install a newer NCCL"));
  }
  if (loaded->Version() < kVersionMin) {
    return Unsupported(StrCat("libnccl.so.2 is NCCL ", NcclVersionText(loaded->Version()),
                              ", needed is ", NcclVersionText(kVersionMin), " or newer"));
  }
  return std::unique_ptr<NcclLibrary>(std::move(loaded));
}

#else

Result<std::unique_ptr<NcclLibrary>> MakeNcclLibrary() {
  return Unsupported(
      "this build has no NCCL: install its headers (libnccl-dev) beside the CUDA toolkit and build "
      "again");
}

#endif

}  // namespace echelon
