// echelon-coordinator: the command line around the service (service.h).

#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "common/control.h"
#include "common/json.h"
#include "common/strings.h"
#include "coordinator/service.h"

namespace echelon {
namespace {

constexpr int kExitOk = 0, kExitFailed = 1, kExitUsage = 2;

constexpr const char* kUsage =
    "usage: echelon-coordinator [--config FILE] [--set key=value]... [--announce FILE]\n"
    "                           [--exit-with-parent] [--worker PROGRAM] [--version] [--help]\n"
    "  --config FILE       service.yaml; every key is documented in deploy/echelon.yaml\n"
    "  --set key=value     sets one key, over the file: --set model.path=m.gguf --set layout.tp=2\n"
    "  --announce FILE     writes {\"endpoint\",\"metrics\",\"pid\"} there once the sockets are "
    "bound\n"
    "  --exit-with-parent  ends when the process that started it ends\n"
    "  --worker PROGRAM    echelon-worker, if it does not lie beside this program\n";

struct CommandLine {
  std::string config_file;
  ConfigOverrides overrides;
  std::string announce_file;
  std::string worker_program;
  bool exit_with_parent = false;
  bool help = false, version = false;
};

Result<CommandLine> ParseCommandLine(const std::vector<std::string>& words) {
  CommandLine line;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--exit-with-parent") {
      line.exit_with_parent = true;
    } else if (word == "--help" || word == "-h") {
      line.help = true;
    } else if (word == "--version") {
      line.version = true;
    } else if (word == "--config" || word == "--set" || word == "--announce" ||
               word == "--worker") {
      if (i + 1 == words.size()) return InvalidArgument(StrCat(word, " needs a value"));
      const std::string& value = words[++i];
      if (word == "--config") line.config_file = value;
      if (word == "--announce") line.announce_file = value;
      if (word == "--worker") line.worker_program = value;
      if (word != "--set") continue;
      const size_t equals = value.find('=');
      if (equals == std::string::npos) {
        return InvalidArgument(StrCat("--set needs key=value, not \"", value, "\""));
      }
      line.overrides.emplace_back(value.substr(0, equals), value.substr(equals + 1));
    } else {
      const std::string near =
          NearestName(word, {"--config", "--set", "--announce", "--exit-with-parent", "--worker",
                             "--version", "--help"});
      return InvalidArgument(StrCat("unknown argument ", word,
                                    near.empty() ? "" : StrCat("; did you mean ", near, "?")));
    }
  }
  return line;
}

// Written beside and renamed, so that a reader never sees half of it.
Status WriteAnnouncement(const std::string& file, const Announcement& announcement) {
  if (file.empty()) return Status();
  Json json = Json::MakeObject();
  json.Set("endpoint", announcement.endpoint);
  json.Set("metrics", announcement.metrics);
  json.Set("pid", int64_t{getpid()});
  const std::string beside = file + ".new";
  std::ofstream out(beside);
  out << json.Dump() << "\n";
  out.close();
  std::error_code error;
  if (out.good()) std::filesystem::rename(beside, file, error);
  if (!out.good() || error) return InvalidArgument(StrCat("cannot write ", file), "--announce");
  return Status();
}

std::string WorkerBeside() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "echelon-worker" : (self.parent_path() / "echelon-worker").string();
}

// SIGTERM and SIGINT as a descriptor. Blocked before any thread starts, so that all inherit it.
int StopDescriptor() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  return signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
}

int Fail(const Error& error, int status) {
  const std::string field = error.field.empty() ? "" : StrCat(" [", error.field, "]");
  std::fprintf(stderr, "echelon-coordinator: %s%s\n", error.message.c_str(), field.c_str());
  return status;
}

int Main(const std::vector<std::string>& words) {
  const pid_t parent = getppid();
  const Result<CommandLine> line = ParseCommandLine(words);
  if (!line.ok()) return Fail(line.error(), kExitUsage);
  if (line->help) return std::fputs(kUsage, stdout), kExitOk;
  if (line->version) return std::printf("%s\n", BuildId().c_str()), kExitOk;
  const int stop_fd = StopDescriptor();
  if (line->exit_with_parent) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) return kExitFailed;  // it has ended already
  }
  Result<ServiceConfig> config = line->config_file.empty()
                                     ? ParseConfig("", "defaults", line->overrides)
                                     : LoadConfig(line->config_file, line->overrides);
  if (!config.ok()) return Fail(config.error(), kExitUsage);
  if (config->model.path.empty()) {
    return Fail(InvalidArgument("no model: set model.path", "model.path"), kExitUsage);
  }
  std::fprintf(stderr, "effective configuration:\n%s", PrintConfig(*config).c_str());
  ServiceOptions options;
  options.config = *config;
  options.worker_program = line->worker_program.empty() ? WorkerBeside() : line->worker_program;
  options.stop_fd = stop_fd;
  options.announce = [&](const Announcement& announcement) {
    return WriteAnnouncement(line->announce_file, announcement);
  };
  const Logger logger("coordinator");
  const Status status = RunService(options, logger);
  if (status.ok()) return kExitOk;
  const bool refused = status.error().code == ErrorCode::kInvalidArgument;  // a layout, an address
  return Fail(status.error(), refused ? kExitUsage : kExitFailed);
}

}  // namespace
}  // namespace echelon

int main(int argc, char** argv) {
  return echelon::Main(std::vector<std::string>(argv + 1, argv + argc));
}
