#include "coordinator/launcher.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <sstream>

#include "common/network.h"
#include "common/strings.h"

namespace echelon {

namespace {

using Words = std::vector<std::string>;
using Pairs = std::vector<std::pair<std::string, std::string>>;

struct HostSlots {
  std::string host;
  int slots = 1;
};

std::optional<int> ParseSlots(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1) return std::nullopt;
  return value;
}

Words SplitWords(const std::string& text) {
  std::istringstream in(text);
  Words words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

Error BadHosts(const std::string& hosts, const std::string& what) {
  return InvalidArgument(StrCat("group.hosts \"", hosts, "\": ", what,
                                "; it is a file with lines \"host slots=2\", or "
                                "\"host1:2,host2:2\""),
                         "group.hosts");
}

// A line of a host file: "host", "host slots=2", "host:2"; comments after #.
Result<HostSlots> ParseHostLine(const std::string& hosts, const Words& words) {
  HostSlots entry;
  const size_t colon = words[0].find(':');
  entry.host = words[0].substr(0, colon);
  std::string slots = colon == std::string::npos ? "1" : words[0].substr(colon + 1);
  for (size_t i = 1; i < words.size(); ++i) {
    constexpr std::string_view kSlots = "slots=";
    if (words[i].rfind(kSlots, 0) == 0) slots = words[i].substr(kSlots.size());
  }
  const auto count = ParseSlots(slots);
  if (entry.host.empty() || !count) return BadHosts(hosts, StrCat("cannot read ", words[0]));
  entry.slots = *count;
  return entry;
}

Result<std::vector<HostSlots>> ReadHosts(const std::string& hosts) {
  std::vector<HostSlots> entries;
  std::ifstream file(hosts);
  std::string text;
  if (file) {
    std::getline(file, text, '\0');
  } else if (hosts.find('/') == std::string::npos) {
    text = Join(Split(hosts, ','), "\n");
  } else {
    return BadHosts(hosts, "no such file");
  }
  for (const std::string& line : Split(text, '\n')) {
    const Words words = SplitWords(line.substr(0, line.find('#')));
    if (words.empty()) continue;
    ASSIGN_OR_RETURN(HostSlots entry, ParseHostLine(hosts, words));
    entries.push_back(std::move(entry));
  }
  if (entries.empty()) return BadHosts(hosts, "no host in it");
  return entries;
}

// What Open MPI is to use. Pinned, because Debian's build would otherwise pick UCX or libfabric
// where it finds them; single-copy (CMA) is refused in many containers. TCP's eager limit of 4 MiB
// holds any decode step, so that a message moves without either side waiting for the other's turn.
Pairs McaParameters(const LaunchRequest& request) {
  const GroupSettings& settings = request.settings;
  const bool one_host = settings.launcher == "local";
  Pairs parameters = {{"pml", "ob1"},
                      {"btl", one_host ? "self,vader" : "self,vader,tcp"},
                      {"btl_vader_single_copy_mechanism", "none"},
                      // Ranks wait by their own rules (worker/comm/progress.h): between hosts every
                      // look at a socket would else hand the core to another program.
                      {"mpi_yield_when_idle", one_host ? "1" : "0"},
                      // mpirun ends the others when one rank died: now, not after a second.
                      {"odls_base_sigkill_timeout", "0"},
                      // Without keepalives mpirun does not see a dead link for minutes.
                      {"oob_tcp_keepalive_time", "2"},
                      {"oob_tcp_keepalive_intvl", "1"},
                      {"oob_tcp_keepalive_probes", "3"}};
  if (!one_host) {
    parameters.emplace_back("btl_tcp_eager_limit", "4194304");
    parameters.emplace_back("btl_tcp_sndbuf", "4194304");
    parameters.emplace_back("btl_tcp_rcvbuf", "4194304");
    // Microseconds between looks at the sockets where Open MPI believes that nobody awaits them,
    // which now and then a start leaves it in: with its 10 ms every all-reduce took 6.
    parameters.emplace_back("mpi_event_tick_rate", "1");
  }
  if (one_host && !request.session_folder.empty()) {
    parameters.emplace_back("orte_tmpdir_base", request.session_folder);
  }
  if (one_host && !request.memory_folder.empty()) {
    parameters.emplace_back("btl_vader_backing_directory", request.memory_folder);
  }
  if (!settings.interface.empty()) {
    // Both, or one of them picks docker0 and hangs.
    if (!one_host) parameters.emplace_back("btl_tcp_if_include", settings.interface);
    parameters.emplace_back("oob_tcp_if_include", settings.interface);
  }
  return parameters;
}

void Append(Words& words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
}

Words Mpirun(const LaunchRequest& request) {
  Words words = {"mpirun",          "-n",        std::to_string(request.world),
                 "--oversubscribe", "--bind-to", "none",
                 "--map-by",        "slot",      "-x",
                 kMarkerVariable};
  if (request.root) words.push_back("--allow-run-as-root");
  for (const auto& [name, value] : McaParameters(request)) {
    Append(words, {"--mca", name, value});
  }
  return words;
}

Result<Words> LocalWords(const LaunchRequest& request) { return Mpirun(request); }

Result<Words> HostfileWords(const LaunchRequest& request) {
  ASSIGN_OR_RETURN(const auto hosts, ReadHosts(request.settings.hosts));
  std::vector<std::string> list;
  for (const HostSlots& entry : hosts) list.push_back(StrCat(entry.host, ":", entry.slots));
  Words words = Mpirun(request);
  for (const std::string& name : request.forwarded) Append(words, {"-x", name});
  Append(words, {"-H", Join(list, ",")});
  if (!request.settings.remote_agent.empty()) {
    Append(words, {"--mca", "plm_rsh_agent", request.settings.remote_agent});
  }
  return words;
}

Result<Words> SlurmWords(const LaunchRequest& request) {
  return Words{"srun", "--mpi=pmix", "--kill-on-bad-exit=1", "-n", std::to_string(request.world)};
}

Result<Words> NoWords(const LaunchRequest&) { return Words{}; }

struct Way {
  const char* name;
  Result<Words> (*words)(const LaunchRequest&);
  bool other_hosts;  // the ranks run elsewhere: a loopback address would not reach the coordinator
};
constexpr Way kWays[] = {
    {"local", LocalWords, false},
    {"hostfile", HostfileWords, true},
    {"slurm", SlurmWords, true},
    {"external", NoWords, false},  // whoever starts the ranks also chose the address
};

Result<const Way*> FindWay(const std::string& launcher) {
  for (const Way& way : kWays) {
    if (launcher == way.name) return &way;
  }
  return InvalidArgument(
      StrCat("group.launcher \"", launcher, "\": must be local, hostfile, slurm or external"),
      "group.launcher");
}

// A host's name for itself, and devices by their UUIDs ("GPU-8f...", "MIG-..."), say nothing on
// other hosts.
bool HoldsOnAllHosts(const std::string& name, const std::string& value) {
  if (name == "CUDA_VISIBLE_DEVICES") return value.find('-') == std::string::npos;
  if (name.rfind("NCCL_", 0) == 0) return name != "NCCL_HOSTID";
  static constexpr const char* kCuda[] = {"CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_DEVICE_ORDER",
                                          "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING"};
  return std::find(std::begin(kCuda), std::end(kCuda), name) != std::end(kCuda);
}

}  // namespace

std::vector<std::string> ForwardedVariables(const char* const* environment) {
  std::vector<std::string> names;
  for (; *environment != nullptr; ++environment) {
    const std::string variable = *environment;
    const std::string name = variable.substr(0, variable.find('='));
    if (name.size() < variable.size() && HoldsOnAllHosts(name, variable.substr(name.size() + 1))) {
      names.push_back(name);
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

Result<LaunchCommand> MakeLaunchCommand(const LaunchRequest& request) {
  ASSIGN_OR_RETURN(const Way* way, FindWay(request.settings.launcher));
  LaunchCommand command;
  ASSIGN_OR_RETURN(command.words, way->words(request));
  if (command.words.empty()) return command;
  Append(command.words, SplitWords(request.settings.mpirun_extra));
  Append(command.words, {request.worker_program, "--coordinator", request.endpoint, "--epoch",
                         std::to_string(request.epoch)});
  command.environment.emplace_back(kMarkerVariable, request.marker);
  if (request.settings.launcher == "local") {
    // mpirun looks at the machine once more through the x86 instruction and every plug-in (PCI,
    // OpenCL, displays), which takes it from 40 to 80 ms here; nothing of that is used.
    command.environment.emplace_back("HWLOC_COMPONENTS", "linux,stop");
  }
  if (request.settings.launcher == "slurm") {
    for (const auto& [name, value] : McaParameters(request)) {
      command.environment.emplace_back("OMPI_MCA_" + name, value);
    }
  }
  if (request.root) {
    command.environment.emplace_back("OMPI_ALLOW_RUN_AS_ROOT", "1");
    command.environment.emplace_back("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
  }
  return command;
}

Result<std::vector<std::string>> ExpectedHosts(const GroupSettings& settings, int world) {
  std::vector<std::string> expected;
  if (settings.launcher == "local") {
    expected.assign(world, HostName());
  } else if (settings.launcher == "hostfile") {
    ASSIGN_OR_RETURN(const auto hosts, ReadHosts(settings.hosts));
    for (const HostSlots& entry : hosts) expected.insert(expected.end(), entry.slots, entry.host);
    if (static_cast<int>(expected.size()) < world) {
      return BadHosts(settings.hosts, StrCat("it has ", expected.size(), " slots for ", world,
                                             " ranks (tp * pp * sp)"));
    }
  }
  expected.resize(world);
  return expected;
}

Result<int64_t> SlotsOf(const GroupSettings& settings) {
  if (settings.launcher != "hostfile") return int64_t{0};
  ASSIGN_OR_RETURN(const auto hosts, ReadHosts(settings.hosts));
  int64_t slots = 0;
  for (const HostSlots& entry : hosts) slots += entry.slots;
  return slots;
}

Result<std::string> ControlBindEndpoint(const GroupSettings& settings) {
  ASSIGN_OR_RETURN(const Way* way, FindWay(settings.launcher));
  ASSIGN_OR_RETURN(const Endpoint endpoint, ParseEndpoint(settings.endpoint));
  const bool loopback = endpoint.host == "localhost" || endpoint.host.rfind("127.", 0) == 0;
  if (!way->other_hosts || !loopback) return settings.endpoint;
  const auto on = [&](const std::string& address) {
    return StrCat("tcp://", address, ":", endpoint.port);
  };
  if (!settings.interface.empty()) {
    ASSIGN_OR_RETURN(const std::string address, AddressOn(settings.interface));
    return on(address);
  }
  if (settings.launcher == "hostfile") {
    ASSIGN_OR_RETURN(const auto hosts, ReadHosts(settings.hosts));
    for (const HostSlots& entry : hosts) {
      if (IsThisHost(entry.host)) continue;
      const std::string interface = InterfaceTowards(entry.host);
      if (!interface.empty()) return on(interface.substr(0, interface.find(' ')));
    }
    return settings.endpoint;  // every host is this one
  }
  // Debian's own name resolves to 127.0.1.1; then the default route, found with an address that is
  // reserved for documentation and never contacted.
  for (const std::string& towards : {HostName(), std::string("192.0.2.1")}) {
    const std::string interface = InterfaceTowards(towards);
    const std::string address = interface.substr(0, interface.find(' '));
    if (!address.empty() && address.rfind("127.", 0) != 0) return on(address);
  }
  return InvalidArgument(StrCat("group.endpoint ", settings.endpoint,
                                " cannot be reached from other hosts: set group.interface or an "
                                "address in group.endpoint"),
                         "group.endpoint");
}

}  // namespace echelon
