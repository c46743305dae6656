#include "common/config_table.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "common/strings.h"

namespace echelon {

namespace {

constexpr int64_t kKiB = 1024, kMiB = 1024 * kKiB, kGiB = 1024 * kMiB, kTiB = 1024 * kGiB;
constexpr int64_t kSecond = 1000, kDay = 86'400 * kSecond;  // in milliseconds
constexpr size_t kTextBytesMax = 4096;                      // PATH_MAX, and plenty for a command

// "8,8,7": numbers from `min` on, no blanks.
bool IsNumberList(const std::string& text, int64_t min) {
  for (const std::string& part : Split(text, ',')) {
    int64_t value = 0;
    const char* end = part.data() + part.size();
    const auto [stop, error] = std::from_chars(part.data(), end, value);
    if (error != std::errc() || stop != end || value < min) return false;
  }
  return true;
}
bool IsPort(const std::string& text) {
  return !text.empty() && text.size() <= 5 && text.find(',') == text.npos &&
         IsNumberList(text, 0) && std::stol(text) <= 65535;
}
bool IsHostPort(const std::string& text) {
  const size_t colon = text.rfind(':');
  return colon != text.npos && colon > 0 && IsPort(text.substr(colon + 1));
}

std::string LayersPerStageProblem(const std::string& text) {
  if (text.empty() || IsNumberList(text, 1)) return "";
  return "expected layer counts from 1 on, separated by commas (\"8,8,7,7\")";
}
std::string BackendsProblem(const std::string& text) {
  for (const std::string& name : Split(text, ',')) {
    if (name != "auto" && name != "cpu" && name != "reference" && name != "cuda") {
      return "expected auto, cpu, reference or cuda, or one of these for each stage, separated by "
             "commas (\"cpu,cuda\")";
    }
  }
  return "";
}
std::string SharesProblem(const std::string& text) {
  if (text.empty() || IsNumberList(text, 1)) return "";
  return "expected shares from 1 on, separated by commas (\"2,1\")";
}
std::string LadderLayersProblem(const std::string& text) {
  if (text.empty()) return "";
  const bool last = text.rfind("last:", 0) == 0;
  if (last && text.find(',') == text.npos && IsNumberList(text.substr(5), 0)) return "";
  if (!last && IsNumberList(text, 0)) return "";
  return "expected layer indices (\"1,3,5\") or the last N layers (\"last:10\")";
}
bool IsTcpEndpoint(const std::string& text) {
  return text.rfind("tcp://", 0) == 0 && IsHostPort(text.substr(6));
}
// Of the workers: they join over TCP wherever they are.
std::string TcpEndpointProblem(const std::string& text) {
  return IsTcpEndpoint(text) ? "" : "expected \"tcp://ADDRESS:PORT\"";
}
std::string EndpointProblem(const std::string& text) {
  if (IsTcpEndpoint(text)) return "";
  if (text.rfind("ipc://", 0) == 0 && text.size() > 6) return "";
  return "expected \"tcp://ADDRESS:PORT\" or \"ipc://PATH\"";
}
std::string MetricsAddressProblem(const std::string& text) {
  if (text.empty() || IsHostPort(text)) return "";
  return "expected \"ADDRESS:PORT\", or \"\" for none";
}
std::string NoProblem(const std::string&) { return ""; }

// Appends the rows of one section, so that each row names its member only.
template <typename Section>
class SectionRows {
 public:
  SectionRows(std::vector<ConfigRow>& rows, std::string name, Section ServiceConfig::*section)
      : rows_(rows), name_(std::move(name)), section_(section) {}

  void Int(const char* name, int64_t Section::*member, const char* unit, int64_t min, int64_t max,
           const char* help) {
    ConfigRow row{name_, name, unit, help, ConfigInt(Member(member)), min, max, {}, NoProblem};
    rows_.push_back(std::move(row));
  }
  void Choice(const char* name, std::string Section::*member, std::vector<std::string> choices,
              const char* help) {
    ConfigRow row{name_, name, "", help, ConfigText(Member(member)), 0, 0, {}, NoProblem};
    row.choices = std::move(choices);
    rows_.push_back(std::move(row));
  }
  void Text(const char* name, std::string Section::*member, const char* help,
            std::string (*problem)(const std::string&) = NoProblem) {
    ConfigRow row{name_, name, "", help, ConfigText(Member(member)), 0, 0, {}, nullptr};
    row.problem = [problem](const std::string& text) {
      return text.size() > kTextBytesMax ? StrCat("longer than ", kTextBytesMax, " bytes")
                                         : problem(text);
    };
    rows_.push_back(std::move(row));
  }

 private:
  template <typename T>
  auto Member(T Section::*member) const {
    return [section = section_, member](ServiceConfig& c) -> T& { return c.*section.*member; };
  }
  std::vector<ConfigRow>& rows_;
  std::string name_;
  Section ServiceConfig::*section_;
};

void AddModel(std::vector<ConfigRow>& rows) {
  using S = ModelSettings;
  SectionRows<S> add(rows, "model", &ServiceConfig::model);
  add.Text("path", &S::path,
           "The checkpoint: a .gguf or .safetensors file, or a Hugging Face folder; the same path "
           "on every host.");
  add.Text("name", &S::name, "What clients call the model; empty: the last part of the path.");
  add.Choice("load_format", &S::load_format, {"auto", "dummy"},
             "auto reads the checkpoint; dummy makes seeded random weights of its configuration.");
  add.Int("dummy_seed", &S::dummy_seed, "", 0, INT64_MAX, "Seed of the dummy weights.");
  add.Int("context_max_tokens", &S::context_max_tokens, "tokens", 0, 1 << 24,
          "Longest sequence, prompt and answer together; 0: what the checkpoint says.");
  add.Choice("schedule", &S::schedule, {"checkpoint", "standard", "ladder", "parallel", "desync"},
             "Order of the blocks. Anything but the checkpoint's own changes what the model says.");
  add.Text("ladder_layers", &S::ladder_layers,
           "Layers that run as a ladder: \"1,3,5\" or \"last:10\"; empty: all of them.",
           LadderLayersProblem);
  add.Text("desync_pattern", &S::desync_pattern,
           "Two characters a layer (attention, MLP), repeated over the layers: 1 keeps the reduce, "
           "0 drops it; the model's last reduce is always kept.");
}

void AddLayout(std::vector<ConfigRow>& rows) {
  using S = LayoutSettings;
  SectionRows<S> add(rows, "layout", &ServiceConfig::layout);
  add.Int("tp", &S::tp, "ranks", 1, 1024, "Tensor parallelism: ranks that share each layer.");
  add.Int("pp", &S::pp, "stages", 1, 1024, "Pipeline parallelism: stages that share the layers.");
  add.Int("sp", &S::sp, "ranks", 1, 1024, "Sequence parallelism: ranks that share a long context.");
  add.Text("layers_per_stage", &S::layers_per_stage,
           "Layers of each pipeline stage (\"8,8,7,7\"); empty: balanced by cost.",
           LayersPerStageProblem);
  add.Text("shard_shares", &S::shard_shares,
           "How tensor-parallel ranks share each layer, as their speeds are to each other "
           "(\"2,1\"; `echelon plan` measures them); empty: evenly.",
           SharesProblem);
}

void AddWorker(std::vector<ConfigRow>& rows) {
  using S = WorkerSettings;
  SectionRows<S> add(rows, "worker", &ServiceConfig::worker);
  add.Text("backend", &S::backend,
           "What computes: auto, cpu, reference or cuda; auto takes CUDA where there is a device, "
           "else the CPU. One for all ranks, or one for each pipeline stage (\"cpu,cuda\").",
           BackendsProblem);
  add.Choice("device_exchange", &S::device_exchange, {"auto", "peer", "nccl", "staged"},
             "How tensors in devices' memory travel between ranks: through each other's memory "
             "(peer: ranks of one host), by NCCL, or staged in the hosts' memory. auto: the first "
             "of these that works.");
  add.Int("threads", &S::threads, "threads", 0, 4096,
          "Threads of each rank; 0: the cores of a host shared out among its ranks.");
  add.Choice(
      "isa", &S::isa, {"auto", "avx2", "avxvnni", "avx512"},
      "Instruction set of the CPU backend, the same bits with each; auto: the best a host has.");
  add.Int("kv_memory_bytes", &S::kv_memory_bytes, "bytes", 0, 64 * kTiB,
          "Memory of each rank for keys and values; 0: of what the weights leave free, shared out "
          "among the ranks that have it together, a quarter on a host, nine tenths on a device.");
  add.Choice("kv_type", &S::kv_type, {"auto", "f32", "f16", "q8_0"},
             "Format of cached keys and values: q8_0 takes 53 % of f16's memory, at some loss of "
             "accuracy. auto: f16, but f32 on the reference backend.");
  add.Int("page_tokens", &S::page_tokens, "tokens", 1, 4096, "Tokens of one page of that cache.");
  add.Choice("shared_memory", &S::shared_memory, {"auto", "off"},
             "auto: the ranks of a host exchange through memory they share; off: through MPI.");
  add.Choice("token_split", &S::token_split, {"auto", "on", "off"},
             "Whether a step's rows are computed in two parts that take turns, so that sums over "
             "tp ranks travel while the other part computes; the same bits. auto: where the link, "
             "measured at the start, says that it is faster.");
  add.Choice("measure_memory", &S::measure_memory, {"no", "yes"},
             "Whether each rank measures how fast its threads read memory before it is ready, for "
             "status and benchmarks.");
  add.Text("trace", &S::trace,
           "A folder on each host: as it ends, every rank writes there when each operation and "
           "message of its first steps began and ended; empty: off.");
}

void AddScheduler(std::vector<ConfigRow>& rows) {
  using S = SchedulerSettings;
  SectionRows<S> add(rows, "scheduler", &ServiceConfig::scheduler);
  add.Int("queue_requests_max", &S::queue_requests_max, "requests", 1, 1 << 20,
          "Requests that may wait; the next one is refused with a time to retry after.");
  add.Int(
      "queue_tokens_max", &S::queue_tokens_max, "tokens", 1, int64_t{1} << 32,
      "Prompt tokens that may wait, all requests together; a text not yet tokenized counts one for "
      "each 4 bytes of its message. Looked at as a request comes.");
  add.Int("sequences_max", &S::sequences_max, "requests", 1, 4096, "Requests that run at once.");
  add.Int("step_tokens_max", &S::step_tokens_max, "tokens", 1, 1 << 20,
          "Tokens of one step: pieces of prompts and one token of each running request.");
  add.Int("steps_in_flight_max", &S::steps_in_flight_max, "steps", 0, 1024,
          "Steps sent ahead of their results; 0: chosen from the layout.");
  add.Int("deadline_default_ms", &S::deadline_default_ms, "ms", 0, 30 * kDay,
          "Deadline of requests that name none, from their acceptance; 0: no deadline.");
  add.Int("max_tokens_default", &S::max_tokens_default, "tokens", 1, 1 << 24,
          "Length of the answer to requests that name none.");
  add.Int("request_losses_max", &S::request_losses_max, "losses", 0, 1 << 20,
          "Lost worker groups that a running request outlives: the next group goes on with it, bit "
          "for bit. One more and it ends with an error: it may be what kills them.");
  add.Int("drain_ms", &S::drain_ms, "ms", 0, kDay,
          "How long requests under way may go on when the service is told to end (SIGTERM); told "
          "again, it ends them at once.");
  add.Choice("speculation", &S::speculation, {"off", "prompt_lookup"},
             "Whether to guess tokens from what stands in the text already, for requests that do "
             "not say; never changes an answer.");
  add.Int("speculation_tokens_max", &S::speculation_tokens_max, "tokens", 0, 1024,
          "Tokens guessed in one step, shared out among its requests; with more requests than "
          "tokens none are. 0: never, whatever a request says.");
  add.Int("speculation_ngram_max_tokens", &S::speculation_ngram_max_tokens, "tokens", 1, 64,
          "A guess is what followed the text's last tokens where they stood before: so many, or "
          "fewer ...");
  add.Int("speculation_ngram_min_tokens", &S::speculation_ngram_min_tokens, "tokens", 1, 64,
          "... down to this many.");
}

void AddFrontend(std::vector<ConfigRow>& rows) {
  using S = FrontendSettings;
  SectionRows<S> add(rows, "frontend", &ServiceConfig::frontend);
  add.Text("endpoint", &S::endpoint,
           "Where clients connect. There is no authentication: keep it on a trusted interface.",
           EndpointProblem);
  add.Int("message_bytes_max", &S::message_bytes_max, "bytes", 4 * kKiB, kGiB,
          "Largest message of a client; a larger one closes its connection.");
  add.Int("clients_max", &S::clients_max, "clients", 1, 1 << 20,
          "Clients with requests under way at once.");
  add.Int("resume_ttl_ms", &S::resume_ttl_ms, "ms", 0, kDay,
          "How long a finished answer is kept for clients that resume it, and a request whose "
          "client went away runs on before it is ended.");
  add.Int("slow_reader_timeout_ms", &S::slow_reader_timeout_ms, "ms", 100, kDay,
          "A client that takes nothing for so long is dropped.");
  add.Int("undelivered_bytes_max", &S::undelivered_bytes_max, "bytes", 64 * kKiB, kTiB,
          "Generated text that waits for slow clients, all together.");
}

void AddMetrics(std::vector<ConfigRow>& rows) {
  using S = MetricsSettings;
  SectionRows<S> add(rows, "metrics", &ServiceConfig::metrics);
  add.Text("address", &S::address,
           "ADDRESS:PORT of /metrics, /healthz and /readyz over HTTP; empty: off.",
           MetricsAddressProblem);
}

void AddGroupLaunch(SectionRows<GroupSettings>& add) {
  using S = GroupSettings;
  add.Choice("launcher", &S::launcher, {"local", "hostfile", "slurm", "external"},
             "Who starts the workers: mpirun here, mpirun over hosts, Slurm, or somebody else.");
  add.Text("hosts", &S::hosts,
           "For hostfile: the path of a host file, or \"host1:2,host2:2\" (ranks on each).");
  add.Text("remote_agent", &S::remote_agent, "The command mpirun uses instead of ssh.");
  add.Text("interface", &S::interface,
           "Network of the workers, as \"10.0.0.0/24\" or a name: of MPI, control, and NCCL unless "
           "NCCL_SOCKET_IFNAME is set; empty: the one routed to.");
  add.Text("endpoint", &S::endpoint, "Where workers connect; port 0: any that is free.",
           TcpEndpointProblem);
  add.Text("mpirun_extra", &S::mpirun_extra, "More words for the launcher's command line.");
}

void AddGroup(std::vector<ConfigRow>& rows) {
  using S = GroupSettings;
  SectionRows<S> add(rows, "group", &ServiceConfig::group);
  AddGroupLaunch(add);
  add.Int("heartbeat_interval_ms", &S::heartbeat_interval_ms, "ms", 10, 60 * kSecond,
          "Time between two heartbeats of a worker, and of the coordinator.");
  add.Int("heartbeat_timeout_ms", &S::heartbeat_timeout_ms, "ms", 100, 600 * kSecond,
          "A worker silent for so long is lost.");
  add.Int("step_deadline_ms", &S::step_deadline_ms, "ms", 100, kDay,
          "A step without a result for so long means a worker hangs; the first step of a group has "
          "four times as long.");
  add.Int("join_deadline_ms", &S::join_deadline_ms, "ms", 1 * kSecond, kDay,
          "How long all workers have to join; for launcher external there is no limit.");
  add.Int("load_deadline_ms", &S::load_deadline_ms, "ms", 1 * kSecond, kDay,
          "How long all workers have to load the model.");
  add.Int("lease_ms", &S::lease_ms, "ms", 100, 600 * kSecond,
          "A worker that has heard nothing of the coordinator for so long ends itself.");
  add.Int("relaunches_max", &S::relaunches_max, "launches", 0, 1 << 20,
          "Relaunches within the window below before the service gives up and exits.");
  add.Int("relaunch_window_ms", &S::relaunch_window_ms, "ms", 1 * kSecond, kDay,
          "The window in which relaunches count; those since a group last worked always do.");
}

std::vector<ConfigRow> MakeTable() {
  std::vector<ConfigRow> rows;
  AddModel(rows);
  AddLayout(rows);
  AddWorker(rows);
  AddScheduler(rows);
  AddFrontend(rows);
  AddMetrics(rows);
  AddGroup(rows);
  return rows;
}

}  // namespace

const std::vector<ConfigRow>& ConfigTable() {
  static const std::vector<ConfigRow> table = MakeTable();
  return table;
}

}  // namespace echelon
