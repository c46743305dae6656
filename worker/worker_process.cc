#include "worker/worker_process.h"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/config.h"
#include "common/control.h"
#include "common/log.h"
#include "common/model/checkpoint.h"
#include "common/network.h"
#include "common/rank_part.h"
#include "common/run_setup.h"
#include "common/strings.h"
#include "kernels/backend.h"
#include "worker/agreement.h"
#include "worker/comm/mpi_comm.h"
#include "worker/control_link.h"
#include "worker/executor.h"
#include "worker/plan_channel.h"
#include "worker/trace.h"
#include "worker/weights.h"

namespace echelon {

namespace {

constexpr int64_t kProgressUs = 100'000;  // between two progress frames
// The lead turns to the transport this often after a plan, and while anything is under way: what it
// sent to busy ranks may still have to move.
constexpr int64_t kLeadTurnMs = 1;
constexpr int64_t kLeadIdleTurnMs = 1000;
constexpr int64_t kLeadBusyUs = 1'000'000;

std::string TextFromEnvironment(const char* name) {
  const char* text = std::getenv(name);
  return text ? text : "";
}

// What NCCL's sockets go over, as it is told: by who started this process, or else by
// group.interface, whose name on this host may be another than elsewhere. Empty: it chooses.
Result<std::string> TellNcclInterface(const std::string& interface) {
  constexpr char kName[] = "NCCL_SOCKET_IFNAME";
  const std::string told = TextFromEnvironment(kName);
  if (!told.empty() || interface.empty()) return told;
  ASSIGN_OR_RETURN(const std::string name, InterfaceOn(interface));
  const std::string exactly = "=" + name;  // else it is a prefix: eth1 would be eth10, too
  setenv(kName, exactly.c_str(), 1);
  return exactly;
}

std::optional<int> FromEnvironment(const char* name) {
  const char* text = std::getenv(name);
  if (!text) return std::nullopt;
  int value = -1;
  const char* end = text + std::strlen(text);
  const auto [rest, error] = std::from_chars(text, end, value);
  if (error != std::errc() || rest != end || value < 0) return std::nullopt;
  return value;
}

int UsableCores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return CPU_COUNT(&set);
}

KvType KvTypeOf(const std::string& name, const Backend& backend) {
  if (name == "f32") return KvType::kF32;
  if (name == "f16") return KvType::kF16;
  if (name == "q8_0") return KvType::kQ8_0;
  // auto: half precision, but the reference backend is the specification and keeps every bit.
  return backend.name() == "reference" ? KvType::kF32 : KvType::kF16;
}

// The life of one rank, a step a method.
class WorkerProcess {
 public:
  WorkerProcess(const Logger& logger, RankIdentity identity, ControlLink& link,
                const WorkerParts& parts)
      : logger_(logger), identity_(identity), link_(link), parts_(parts) {}

  Status Configure(const std::string& yaml);
  Status StartMpi();
  Status OpenModel();
  Status Agree();
  Status LoadModel();
  Status MakeExecutor();
  void MeasureMemory();
  void AnnounceReady();
  Status Serve();
  Status WriteTrace() const;
  // What it computes on, once that is known; empty: no device.
  std::string device() const { return backend_ ? backend_->DeviceName() : ""; }

 private:
  Status ServeAsLead();
  Status ServeAsFollower();
  bool MustEndStep() const;
  Status BeginStep(const std::string& bytes);
  Status EndStep();

  const Logger& logger_;
  const RankIdentity identity_;
  ControlLink& link_;
  const WorkerParts parts_;
  const SystemClock clock_;
  ServiceConfig config_;
  ParallelLayout layout_;
  std::unique_ptr<Trace> trace_;         // where asked for; told by all that follows
  std::unique_ptr<MpiEnvironment> mpi_;  // before all that uses it: destroyed last
  std::unique_ptr<Communicator> world_;
  std::unique_ptr<PlanChannel> plans_;
  std::unique_ptr<Backend> backend_;
  std::string passed_over_;  // why "auto" took no better one
  const std::shared_ptr<WireWatch> watch_ = std::make_shared<WireWatch>();
  std::unique_ptr<Checkpoint> checkpoint_;
  ModelConfig model_;
  std::string weights_fingerprint_, numerics_fingerprint_;  // of the group
  MemoryShare memory_;
  Weights weights_;  // until the executor has them
  uint64_t weight_bytes_ = 0, token_bytes_ = 0;
  double read_bytes_per_s_ = 0.0;
  std::unique_ptr<Executor> executor_;
  std::optional<StepPlan> traced_;  // the step at hand, where there is a trace: one by one
  int64_t traced_begin_ns_ = 0;
};

Status WorkerProcess::Configure(const std::string& yaml) {
  ASSIGN_OR_RETURN(config_, ParseConfig(yaml, "the coordinator's configuration"));
  ASSIGN_OR_RETURN(layout_, LayoutFrom(config_.layout));
  if (layout_.world() != identity_.world) {
    return InvalidArgument(StrCat("the layout needs ", layout_.world(), " ranks, ", identity_.world,
                                  " were launched"));
  }
  if (!config_.worker.trace.empty()) {
    trace_ = std::make_unique<Trace>(identity_.rank, HostName());
  }
  link_.StartLease(config_.group.heartbeat_interval_ms, config_.group.lease_ms);
  return {};
}

HeartbeatMessage HeartbeatOf(const LongWait& host, const LongWait& device) {
  const LongWait::Seen on_host = host.Get(), on_device = device.Get();
  const bool devices = on_device.waited > on_host.waited;
  const LongWait::Seen& seen = devices ? on_device : on_host;
  const auto count = std::min<size_t>(seen.ranks.size(), kAwaitedMax);
  return {static_cast<uint64_t>(seen.waited.count()),
          {seen.ranks.begin(), seen.ranks.begin() + static_cast<int64_t>(count)},
          devices};
}

Status WorkerProcess::StartMpi() {
  MpiOptions options;
  options.shared_memory = config_.worker.shared_memory == "auto";
  ASSIGN_OR_RETURN(mpi_, MpiEnvironment::Start(options));
  link_.SetHeartbeat([host = mpi_->long_wait(), wires = watch_] {
    return HeartbeatOf(*host, wires->long_wait());
  });
  if (!mpi_->shared_memory_problem().empty()) {
    logger_.Warn(StrCat(mpi_->shared_memory_problem(), "; the ranks of this host go through MPI"));
  }
  world_ = mpi_->World();
  if (world_->rank() != identity_.rank || world_->size() != identity_.world) {
    return InternalError(StrCat("MPI says rank ", world_->rank(), " of ", world_->size(),
                                ", the launcher's environment rank ", identity_.rank, " of ",
                                identity_.world, ": start echelon-worker by one launcher alone"));
  }
  plans_ = std::make_unique<PlanChannel>(*world_);
  if (trace_) world_ = MakeTracedComm(std::move(world_), *trace_);
  return {};
}

Status WorkerProcess::OpenModel() {
  BackendOptions options;
  options.name = BackendOfStage(config_.worker.backend, layout_.PositionOf(identity_.rank).pp);
  options.isa = config_.worker.isa;
  options.threads = config_.worker.threads > 0
                        ? static_cast<int>(config_.worker.threads)
                        : std::max(1, UsableCores() / mpi_->ranks_on_this_host());
  options.rank_on_host = mpi_->rank_on_this_host();
  options.timed = trace_ != nullptr;
  ASSIGN_OR_RETURN(backend_, MakeBackend(options, &passed_over_));
  const std::string why = passed_over_.empty() ? "" : StrCat(" (auto: ", passed_over_, ")");
  logger_.Info(StrCat("computes on ", backend_->Describe(), why));
  if (trace_) backend_ = MakeTimedBackend(std::move(backend_), *trace_);
  ASSIGN_OR_RETURN(RunSetup setup, SetUpRun(config_));
  checkpoint_ = std::move(setup.checkpoint);
  model_ = std::move(setup.effective.model);
  weights_fingerprint_ = checkpoint_->Fingerprint();
  return {};
}

Status WorkerProcess::Agree() {
  const bool stages_differ = config_.worker.backend.find(',') != std::string::npos;
  ASSIGN_OR_RETURN(
      numerics_fingerprint_,
      CheckAgreement(*world_,
                     {HostName(), weights_fingerprint_, backend_->NumericsFingerprint(),
                      stages_differ ? layout_.PositionOf(identity_.rank).pp : 0, passed_over_}));
  memory_ = ShareMemory(*world_, *backend_, mpi_->ranks_on_this_host());
  return {};
}

Status WorkerProcess::LoadModel() {
  int64_t last_us = 0;
  const auto progress = [&](uint64_t done, uint64_t total) {
    const int64_t now_us = clock_.NowUs();
    if (done != total && now_us - last_us < kProgressUs) return;
    last_us = now_us;
    link_.SendProgress({done, total});
  };
  ASSIGN_OR_RETURN(weights_,
                   LoadWeights(*checkpoint_, model_, PartOf(model_, layout_, identity_.rank),
                               memory_.free_bytes, *backend_, progress));
  weight_bytes_ = weights_.bytes;
  token_bytes_ = TokenBytes(weights_);
  if (trace_) {
    const RankPart part = PartOf(model_, layout_, identity_.rank);
    trace_->NameWeights(weights_, static_cast<int>(part.layers.begin));
  }
  return {};
}

Status WorkerProcess::MakeExecutor() {
  ExecutorOptions options;
  options.layout = layout_;
  options.rank = identity_.rank;
  options.step_tokens_max = static_cast<int>(config_.scheduler.step_tokens_max);
  options.sequences_max = static_cast<int>(config_.scheduler.sequences_max);
  options.context_max = static_cast<int>(config_.model.context_max_tokens);
  options.page_tokens = static_cast<int>(config_.worker.page_tokens);
  options.kv_type = KvTypeOf(config_.worker.kv_type, *backend_);
  options.kv_memory_bytes = static_cast<uint64_t>(config_.worker.kv_memory_bytes);
  options.ranks_on_memory = memory_.ranks;
  options.comm.kind = config_.worker.device_exchange;
  options.comm.host = HostName();
  options.comm.nccl_host_id = TextFromEnvironment("NCCL_HOSTID");
  if (!backend_->host_memory()) {
    ASSIGN_OR_RETURN(options.comm.nccl_interface, TellNcclInterface(config_.group.interface));
  }
  options.comm.join_ms = config_.group.join_deadline_ms;
  options.comm.watch = watch_;
  options.comm.load_nccl = parts_.load_nccl;
  // So that a step whose other rank does not come ends before the coordinator gives it up.
  options.comm.wait_ms = config_.group.step_deadline_ms * 3 / 4;
  options.comm.note = [this, said = std::string()](const std::string& how) mutable {
    if (identity_.rank == 0 && how != said) logger_.Info(how);
    said = how;
  };
  options.token_split = config_.worker.token_split == "auto" ? TokenSplitMode::kAuto
                        : config_.worker.token_split == "on" ? TokenSplitMode::kOn
                                                             : TokenSplitMode::kOff;
  ASSIGN_OR_RETURN(executor_, Executor::Create(model_, options, std::move(weights_), *backend_,
                                               *world_, clock_));
  for (const std::string& said : {executor_->DescribePages(), executor_->DescribeTokenSplit()}) {
    if (!said.empty() && identity_.rank == 0) logger_.Info(said);
  }
  if (config_.worker.measure_memory == "yes") MeasureMemory();
  return {};
}

// All ranks at once, as a step reads: those of one host share its memory.
void WorkerProcess::MeasureMemory() {
  const char mine = 0;
  std::vector<char> all(world_->size());
  world_->Wait(world_->AllGather(&mine, all.data(), sizeof(mine)));
  read_bytes_per_s_ = backend_->MeasureReadBandwidth(token_bytes_);
}

void WorkerProcess::AnnounceReady() {
  ReadyMessage ready;
  ready.weights_fingerprint = weights_fingerprint_;
  ready.numerics_fingerprint = numerics_fingerprint_;
  ready.backend = backend_->Describe();
  ready.device = device();
  ready.weight_bytes = weight_bytes_;
  ready.kv_bytes = executor_->kv_bytes();
  ready.token_bytes = token_bytes_;
  ready.kv_position_bytes = executor_->kv_position_bytes();
  ready.read_bytes_per_s = static_cast<uint64_t>(read_bytes_per_s_);
  ready.kv_pages = static_cast<uint32_t>(executor_->pages());
  ready.page_tokens = static_cast<uint32_t>(config_.worker.page_tokens);
  ready.context_max = static_cast<uint32_t>(executor_->context_max());
  ready.vocab_size = static_cast<uint32_t>(model_.vocab_size);
  link_.SendReady(ready);
}

Status WorkerProcess::Serve() { return identity_.rank == 0 ? ServeAsLead() : ServeAsFollower(); }

Status WorkerProcess::ServeAsLead() {
  int64_t last_plan_us = clock_.NowUs();
  bool under_way = false;
  for (;;) {
    const bool begun = executor_->begun() > 0;
    if (MustEndStep()) {
      RETURN_IF_ERROR(EndStep());
      last_plan_us = clock_.NowUs();
      continue;
    }
    const bool busy = under_way || clock_.NowUs() - last_plan_us < kLeadBusyUs;
    LinkEvent event = link_.NextEvent(begun ? 0 : busy ? kLeadTurnMs : kLeadIdleTurnMs);
    if (event.kind == LinkEvent::kPlan) {
      plans_->Publish(event.plan);
      RETURN_IF_ERROR(BeginStep(event.plan));
    } else if (event.kind == LinkEvent::kShutdown) {
      while (executor_->begun() > 0) RETURN_IF_ERROR(EndStep());
      plans_->PublishEnd();
      return {};
    } else if (begun) {
      std::this_thread::yield();  // the device computes
    } else {
      under_way = mpi_->MoveOn();
    }
  }
}

Status WorkerProcess::ServeAsFollower() {
  for (;;) {
    if (MustEndStep()) {
      RETURN_IF_ERROR(EndStep());
      continue;
    }
    if (executor_->begun() > 0 && !plans_->Ready()) {
      std::this_thread::yield();  // the device computes
      continue;
    }
    const auto plan = plans_->Next();
    if (!plan) break;
    RETURN_IF_ERROR(BeginStep(*plan));
  }
  while (executor_->begun() > 0) RETURN_IF_ERROR(EndStep());
  return {};
}

// Nothing else can be done before.
bool WorkerProcess::MustEndStep() const {
  return executor_->begun() > 0 && (trace_ || !executor_->TakesPlan() || executor_->Done());
}

Status WorkerProcess::BeginStep(const std::string& bytes) {
  ASSIGN_OR_RETURN(StepPlan plan, DecodePlan(bytes));
  if (trace_) {
    traced_ = plan;
    traced_begin_ns_ = Trace::NowNs();
  }
  executor_->Begin(std::move(plan));
  return {};
}

Status WorkerProcess::EndStep() {
  ASSIGN_OR_RETURN(const std::optional<StepResult> result, executor_->End());
  if (trace_) trace_->AddStep(*traced_, traced_begin_ns_);
  if (result) link_.SendResult(*result);
  return {};
}

Status WorkerProcess::WriteTrace() const {
  return trace_ ? trace_->Write(config_.worker.trace) : Status();
}

// Joins, loads and serves; the error is this rank's last word.
Status Live(WorkerProcess& worker, const std::string& config, const Logger& logger) {
  struct Phase {
    const char* name;
    Status (WorkerProcess::*run)();
  };
  static constexpr Phase kPhases[] = {{"MPI", &WorkerProcess::StartMpi},
                                      {"model opened", &WorkerProcess::OpenModel},
                                      {"ranks agree", &WorkerProcess::Agree},
                                      {"weights loaded", &WorkerProcess::LoadModel},
                                      {"memory laid out", &WorkerProcess::MakeExecutor}};
  RETURN_IF_ERROR(worker.Configure(config));
  const SystemClock clock;
  std::vector<std::string> took;
  for (const Phase& phase : kPhases) {
    const int64_t begin_us = clock.NowUs();
    RETURN_IF_ERROR((worker.*phase.run)());
    took.push_back(StrCat(phase.name, " ", (clock.NowUs() - begin_us) / 1000, " ms"));
  }
  logger.Info(StrCat("ready: ", Join(took, ", ")));
  worker.AnnounceReady();
  RETURN_IF_ERROR(worker.Serve());
  return worker.WriteTrace();
}

}  // namespace

Result<RankIdentity> IdentityFromEnvironment() {
  static constexpr const char* kNames[][2] = {{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
                                              {"SLURM_PROCID", "SLURM_NTASKS"},
                                              {"PMI_RANK", "PMI_SIZE"}};
  for (const auto& [rank_name, size_name] : kNames) {
    const auto rank = FromEnvironment(rank_name);
    const auto world = FromEnvironment(size_name);
    if (!rank && !world) continue;
    if (!rank || !world || *rank >= *world) {
      return InvalidArgument(StrCat(rank_name, " and ", size_name,
                                    " do not name a rank: start echelon-worker by mpirun or srun"));
    }
    return RankIdentity{*rank, *world};
  }
  return RankIdentity{};
}

int RunWorker(const WorkerFlags& flags, const WorkerParts& parts) {
  const auto identity = IdentityFromEnvironment();
  if (!identity.ok()) {
    Logger("worker").Error(identity.error().message);
    return kExitUsage;
  }
  const Logger logger(StrCat("worker ", identity->rank));
  LinkOptions options;
  options.coordinator = flags.coordinator;
  options.epoch = flags.epoch;
  options.rank = identity->rank;
  options.world = identity->world;
  options.join_timeout_ms = flags.join_timeout_ms;
  auto link = ControlLink::Connect(options, logger);
  if (!link.ok()) {
    logger.Error(link.error().message);
    return kExitUsage;
  }
  const auto config = (*link)->AwaitWelcome();
  if (!config.ok()) {
    logger.Error(config.error().message);
    return config.error().code == ErrorCode::kUnavailable ? kExitLostCoordinator : kExitRefused;
  }
  auto worker = std::make_unique<WorkerProcess>(logger, *identity, **link, parts);
  const Status lived = Live(*worker, *config, logger);
  if (!lived.ok()) {
    Error error = lived.error();
    error.rank = identity->rank;
    error.host = HostName();
    if (const std::string device = worker->device();
        error.message.find(device) == std::string::npos) {
      error.message = StrCat(device, ": ", error.message);
    }
    logger.Error(error.message);
    (*link)->SendFailure(error);
    (*link)->Close();
    worker.release();  // neither executor nor MPI can be taken down without the other ranks
    return kExitInternal;
  }
  worker.reset();  // MPI_Finalize, while the lease still counts
  (*link)->Close();
  return kExitClean;
}

}  // namespace echelon
