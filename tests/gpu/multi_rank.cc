// One rank of a group of processes on this machine: what tests/gpu/run_multi starts, several at
// once. Needs no MPI and no coordinator (tests/support/worker/process_group.h).
//
//   multi_rank --rank R --size N --meeting NAME --case CASE [--backend cuda] [--exchange auto]
//              [--join-ms MS] [--lease-ms MS] [--step-ms MS]
//
// Cases:
//   contract        the contract of communicators: the host's, and that of the step's tensors
//   layout:NAME     a layout of tests/support/worker/device_layouts.h against the reference
//   times           how long all-reduces take, in JSON: a line for each size
//   sums            all-reduces of tensors without end; steps:NAME: steps. For who ends them.
//   memory:NAME     rank 1 has a quarter of the others' memory for keys and values
//   nccl-versions   rank 1 says that it has another NCCL, cuda-versions: another CUDA runtime
//   nccl-absent     rank 1 never comes to where NCCL joins the ranks
//
// Status 0 when all was right, else a line to stderr: 1 what was computed is wrong, 70 this rank
// failed, 75 another did.

#include "tests/gpu/multi_rank.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/strings.h"
#include "tests/support/comm_contract.h"
#include "tests/support/worker/device_layouts.h"
#include "tests/support/worker/process_group.h"
#include "tests/support/worker/process_rank.h"
#include "worker/comm/first_problem.h"

namespace echelon::testing {
namespace {

constexpr int kWrong = 1;
constexpr int kUsage = 2;

struct RankOptions {
  ProcessGroupOptions group;
  std::string work;    // the case, up to ":"
  std::string layout;  // behind it
  std::string backend = "cuda";
  std::string exchange = "auto";
};

std::string FromEnvironment(const char* name) {
  const char* const text = std::getenv(name);
  return text != nullptr ? text : "";
}

// An NCCL that says another version, or that a rank does not come to.
class OddNccl final : public NcclLibrary {
 public:
  OddNccl(int version, std::unique_ptr<NcclLibrary> real)
      : version_(version), real_(std::move(real)) {}
  int Version() override { return real_ ? real_->Version() : version_; }
  Result<NcclId> NewId() override { return real_->NewId(); }
  NcclOutcome Init(const NcclId&, int, int, NcclComm*) override {
    for (;;) pause();
  }
  NcclOutcome State(NcclComm) override { return {}; }
  NcclOutcome AllGather(NcclComm, const void*, void*, size_t, void*) override { return {}; }
  NcclOutcome Send(NcclComm, const void*, size_t, int, void*) override { return {}; }
  NcclOutcome Recv(NcclComm, void*, size_t, int, void*) override { return {}; }
  NcclOutcome GroupStart() override { return {}; }
  NcclOutcome GroupEnd() override { return {}; }

 private:
  const int version_;
  const std::unique_ptr<NcclLibrary> real_;
};

class MultiRank {
 public:
  MultiRank(const RankOptions& options, const LoadNccl& load_nccl, ProcessGroup& group)
      : options_(options), group_(group) {
    comm_.kind = options.exchange;
    comm_.load_nccl = load_nccl;
    comm_.host = group.host();
    comm_.nccl_host_id = FromEnvironment("NCCL_HOSTID");
    comm_.nccl_interface = FromEnvironment("NCCL_SOCKET_IFNAME");
    comm_.join_ms = options.group.join_ms;
    comm_.watch = std::make_shared<WireWatch>();
    comm_.note = [this](const std::string& how) { Say(how); };
    for (const LayoutCase& known : DeviceLayouts()) {
      if (options.layout == known.name) layout_ = known;
    }
  }

  // Returns the exit status; an error ends the process before.
  int Run() {
    if (!options_.layout.empty() && layout_.ranks() != options_.group.size) {
      group_.Fail(StrCat("layout ", options_.layout, " has ", layout_.ranks(), " ranks, not ",
                         options_.group.size));
    }
    BackendOptions chosen;
    chosen.name = options_.backend;
    chosen.rank_on_host = options_.group.rank;
    backend_ = OrFail(MakeBackend(chosen));
    group_.Introduce(backend_->Describe());
    const std::map<std::string, std::vector<std::string> (MultiRank::*)()> works = {
        {"contract", &MultiRank::Contract},
        {"layout", &MultiRank::Layout},
        {"times", &MultiRank::Times},
        {"sums", &MultiRank::Sums},
        {"steps", &MultiRank::Steps},
        {"memory", &MultiRank::Memory},
        {"nccl-versions", &MultiRank::NcclVersions},
        {"cuda-versions", &MultiRank::CudaVersions},
        {"nccl-absent", &MultiRank::NcclAbsent}};
    const auto work = works.find(options_.work);
    if (work == works.end()) group_.Fail(StrCat("no case ", options_.work));
    const std::vector<std::string> wrong = (this->*work->second)();
    for (const std::string& line : wrong)
      std::fprintf(stderr, "rank %d: %s\n", rank(), line.c_str());
    group_.Leave();
    return wrong.empty() ? 0 : kWrong;
  }

 private:
  int rank() const { return options_.group.rank; }
  template <typename T>
  T OrFail(Result<T> result) {
    if (!result.ok()) group_.Fail(result.error().message);
    return std::move(result).value();
  }
  void Say(const std::string& text) const {
    if (rank() == 0) std::printf("%s\n", text.c_str());
    std::fflush(stdout);
  }
  void SayAtIt() const {  // every rank: it may be ended now
    std::printf("at it\n");
    std::fflush(stdout);
  }

  std::unique_ptr<Communicator> StepCommunicator() {
    backend_->SetWatch([watch = comm_.watch](bool over) { return watch->Check(over); });
    group_.Begin("joining the other ranks");
    auto made = OrFail(MakeStepCommunicator(group_.world().Split(0, rank()), *backend_, comm_));
    group_.Begin("");
    return made;
  }

  std::vector<std::string> Contract() {
    group_.Begin("the contract in host memory");
    std::vector<std::string> broken = CheckCommunicatorContract(group_.world());
    if (backend_->host_memory()) return broken;
    const auto comm = StepCommunicator();
    group_.Begin("the contract in the device's memory");
    for (std::string& line : CheckCommunicatorContract(*comm, backend_.get())) {
      broken.push_back(std::move(line));
    }
    return broken;
  }

  ProcessRank MakeRank(const LayoutInput& input, uint64_t kv_memory_bytes = 0) {
    LocalGroupOptions options = OptionsFor(layout_, options_.backend);
    options.executor.comm = comm_;
    if (kv_memory_bytes > 0) options.executor.kv_memory_bytes = kv_memory_bytes;
    return {group_, *backend_, input.checkpoint(), options};
  }

  // Rank 0 compares with the reference; the others compare their own bits.
  std::vector<std::string> CheckLayout(uint64_t kv_memory_bytes = 0) {
    const LayoutInput input(layout_);
    ProcessRank running = MakeRank(input, kv_memory_bytes);
    if (!running.DescribePages().empty()) Say(running.DescribePages());
    std::vector<Answer> want;
    if (rank() == 0) want = ReferenceAnswers(layout_, input);
    // On their hosts: kernels that wait would give rank 0 up meanwhile.
    group_.Begin("waiting for the reference's answers");
    static_cast<void>(FirstProblem(group_.world(), group_.host(), Status()));
    return CheckAnswers(running, rank() == 0 ? &want : nullptr);
  }
  std::vector<std::string> Layout() { return CheckLayout(); }

  std::vector<std::string> Memory() {
    constexpr uint64_t kOthers = 1 << 20;
    return CheckLayout(rank() == 1 ? kOthers / 4 : kOthers);
  }

  // One after the other, as a decode step has them; the host waits at the end alone.
  std::vector<std::string> Times() {
    constexpr int64_t kSmallest = 4 << 10, kLargest = 16 << 20;
    constexpr int kWarm = 3, kRounds = 20;
    const auto comm = StepCommunicator();
    Held<float> data(backend_->host_memory() ? nullptr : backend_.get(),
                     std::vector<float>(kLargest / sizeof(float)));
    for (int64_t bytes = kSmallest; bytes <= kLargest; bytes *= 4) {
      group_.Begin(StrCat("all-reduces of ", bytes, " bytes"));
      std::chrono::steady_clock::time_point begin;
      for (int round = -kWarm; round < kRounds; ++round) {
        if (round == 0) {
          backend_->Synchronize();
          begin = std::chrono::steady_clock::now();
        }
        comm->Wait(comm->AllReduceSum(data.data(), bytes / static_cast<int64_t>(sizeof(float))));
      }
      backend_->Synchronize();
      const std::chrono::duration<double, std::micro> took =
          std::chrono::steady_clock::now() - begin;
      const Status health = backend_->Health();
      if (!health.ok()) group_.Fail(health.error().message);
      Say(StrCat("{\"name\": \"all-reduce of ", bytes >> 10, " KiB over ", comm->size(), " ranks, ",
                 options_.exchange, "\", \"value\": ", took.count() / kRounds,
                 ", \"unit\": \"us\"}"));
    }
    return {};
  }

  std::vector<std::string> Sums() {
    constexpr int64_t kCount = 1 << 20;
    const auto comm = StepCommunicator();
    Held<float> data(backend_->host_memory() ? nullptr : backend_.get(),
                     std::vector<float>(kCount));
    for (int round = 0;; ++round) {
      group_.Begin(StrCat("all-reduce ", round));
      comm->Wait(comm->AllReduceSum(data.data(), kCount));
      backend_->Synchronize();
      const Status health = backend_->Health();
      if (!health.ok()) group_.Fail(health.error().message);
      if (round == 2) SayAtIt();
    }
  }

  std::vector<std::string> Steps() {
    const LayoutInput input(layout_);
    ProcessRank running = MakeRank(input);
    for (int round = 0;; ++round) {
      CheckAnswers(running, nullptr);
      if (round == 0) SayAtIt();
    }
  }

  // Both end with an error on all ranks, before NCCL would meet them.
  std::vector<std::string> Compare(int nccl, int runtime) {
    NcclWireOptions wire;
    wire.library = std::make_shared<OddNccl>(nccl, nullptr);
    wire.card.name = backend_->Describe();
    wire.card.uuid[0] = static_cast<uint8_t>(rank());
    wire.card.runtime_version = runtime;
    wire.host = group_.host();
    const auto compared = NcclWire::Compare(group_.world(), wire);
    if (compared.ok()) return {"ranks that differ were not refused"};
    group_.Fail(compared.error().message);
  }
  std::vector<std::string> NcclVersions() { return Compare(rank() == 1 ? 22703 : 22809, 13000); }
  std::vector<std::string> CudaVersions() { return Compare(22809, rank() == 1 ? 12080 : 13000); }

  std::vector<std::string> NcclAbsent() {
    if (rank() == 1) {
      comm_.load_nccl = [load = comm_.load_nccl]() -> Result<std::unique_ptr<NcclLibrary>> {
        ASSIGN_OR_RETURN(auto real, load());
        return std::unique_ptr<NcclLibrary>(std::make_unique<OddNccl>(0, std::move(real)));
      };
    }
    StepCommunicator();
    return {"a group without rank 1 was made"};
  }

  const RankOptions options_;
  ProcessGroup& group_;
  StepCommOptions comm_;
  LayoutCase layout_{"", 1, 1, 1};
  std::unique_ptr<Backend> backend_;
};

bool Parse(int argc, char** argv, RankOptions* options) {
  std::map<std::string, std::string> given;
  for (int i = 1; i + 1 < argc; i += 2) given[argv[i]] = argv[i + 1];
  const auto number = [&](const char* name, auto& value) {
    const auto found = given.find(name);
    if (found != given.end()) value = std::atoi(found->second.c_str());
  };
  const auto text = [&](const char* name, std::string& value) {
    const auto found = given.find(name);
    if (found != given.end()) value = found->second;
  };
  number("--rank", options->group.rank);
  number("--size", options->group.size);
  number("--join-ms", options->group.join_ms);
  number("--lease-ms", options->group.lease_ms);
  number("--step-ms", options->group.step_ms);
  text("--meeting", options->group.meeting);
  text("--backend", options->backend);
  text("--exchange", options->exchange);
  text("--case", options->work);
  const size_t colon = options->work.find(':');
  if (colon != std::string::npos) {
    options->layout = options->work.substr(colon + 1);
    options->work.resize(colon);
  }
  return argc % 2 == 1 && !options->group.meeting.empty() && !options->work.empty();
}

}  // namespace

int RunMultiRank(int argc, char** argv, const LoadNccl& load_nccl) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // no rank outlives who started it
  RankOptions options;
  if (!Parse(argc, argv, &options)) {
    std::fprintf(stderr, "usage: multi_rank --rank R --size N --meeting NAME --case CASE ...\n");
    return kUsage;
  }
  const auto group = ProcessGroup::Join(options.group);
  if (!group.ok()) {
    std::fprintf(stderr, "rank %d: %s\n", options.group.rank, group.error().message.c_str());
    return kRankFailed;
  }
  return MultiRank(options, load_nccl, **group).Run();
}

}  // namespace echelon::testing
