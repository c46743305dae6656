#include "client/cli/service.h"

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "client/cli/local_config.h"
#include "client/cli/progress.h"
#include "common/json.h"
#include "common/strings.h"

namespace echelon {

namespace {

constexpr int64_t kAnnounceDeadlineMs = 30'000;  // starting a process and binding sockets
constexpr int64_t kStatusTimeoutMs = 10'000;
constexpr int64_t kStopGraceMs = 15'000;  // the coordinator ends its group in a few seconds
// Between looks at the announcement and at the status. A start of a small model takes 300 ms.
constexpr auto kPollStep = std::chrono::milliseconds(10);
constexpr size_t kLogTailBytes = 64 << 10;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

Result<std::string> MakeFolder() {
  std::string path = (std::filesystem::temp_directory_path() / "echelon-XXXXXX").string();
  if (mkdtemp(path.data()) == nullptr) {
    return InternalError(StrCat("cannot make a folder like ", path, "; is TMPDIR writable?"));
  }
  return path;
}

void Print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

Error Interrupted() { return Error{ErrorCode::kCancelled, "interrupted"}; }

}  // namespace

Result<Announcement> ParseAnnouncement(std::string_view text) {
  ASSIGN_OR_RETURN(const Json json, Json::Parse(text, "announcement"));
  const Json* endpoint = json.Find("endpoint");
  if (endpoint == nullptr || !endpoint->is_string()) {
    return Corrupt("announcement: field endpoint is missing");
  }
  Announcement out;
  out.endpoint = endpoint->as_string();
  const Json* metrics = json.Find("metrics");
  if (metrics != nullptr && metrics->is_string()) out.metrics = metrics->as_string();
  return out;
}

Result<std::unique_ptr<CoordinatorProcess>> CoordinatorProcess::Start(const ServiceConfig& config,
                                                                      bool log_to_stderr) {
  std::unique_ptr<CoordinatorProcess> process(new CoordinatorProcess);
  process->log_to_stderr_ = log_to_stderr;
  ASSIGN_OR_RETURN(process->folder_, MakeFolder());
  const std::string& folder = process->folder_;
  process->log_fd_ = open((folder + "/log").c_str(), O_RDONLY | O_CREAT | O_CLOEXEC, 0600);
  std::ofstream(folder + "/service.yaml") << PrintConfig(config);
  ASSIGN_OR_RETURN(process->child_,
                   ChildProcess::Start(ExecutableFolder() + "/echelon-coordinator",
                                       {"--config", folder + "/service.yaml", "--announce",
                                        folder + "/announce.json", "--exit-with-parent"},
                                       log_to_stderr ? "" : folder + "/log"));
  return process;
}

CoordinatorProcess::~CoordinatorProcess() {
  if (child_) Stop();
  RemoveFolder();
  if (log_fd_ >= 0) close(log_fd_);
}

void CoordinatorProcess::RemoveFolder() {
  std::error_code ignored;
  if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
  folder_.clear();
}

int CoordinatorProcess::Stop() { return child_->Stop(kStopGraceMs); }

Error CoordinatorProcess::Ended(int status) const {
  std::string reason = StrCat("its exit status is ", status);
  if (!log_to_stderr_) {
    std::string log = ReadFile(StrCat("/proc/self/fd/", log_fd_));
    if (log.size() > kLogTailBytes) log.erase(0, log.size() - kLogTailBytes);
    // The programs' last line is their clear error.
    for (const std::string& line : Split(log, '\n')) {
      if (!line.empty()) reason = line;
    }
  }
  return InternalError(StrCat("the local group ended: ", reason));
}

Result<Announcement> CoordinatorProcess::WaitAnnounced(Interrupts& interrupts) {
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(kAnnounceDeadlineMs);
  while (std::chrono::steady_clock::now() < deadline) {
    auto announcement = ParseAnnouncement(ReadFile(folder_ + "/announce.json"));
    if (announcement.ok()) return announcement;
    if (const auto status = child_->Poll()) return Ended(*status);
    if (interrupts.Take()) return Interrupted();
    std::this_thread::sleep_for(kPollStep);
  }
  return Unavailable(
      StrCat("the coordinator did not say where it listens within ", kAnnounceDeadlineMs, " ms"));
}

Result<std::unique_ptr<Client>> CoordinatorProcess::WaitReady(Interrupts& interrupts) {
  ASSIGN_OR_RETURN(announcement_, WaitAnnounced(interrupts));
  ClientOptions options;
  options.endpoint = announcement_.endpoint;
  ASSIGN_OR_RETURN(auto client, Client::Connect(options));
  SystemClock clock;
  // Bars that are redrawn do not go together with other lines.
  ProgressView view(clock, isatty(STDERR_FILENO) == 1 && !log_to_stderr_);
  while (true) {
    if (const auto status = child_->Poll()) return Ended(*status);
    if (interrupts.Take()) return Interrupted();
    const auto status = client->GetStatus(kStatusTimeoutMs);
    if (!status.ok()) {
      if (const auto ended = child_->Poll()) return Ended(*ended);
      return status.error();
    }
    if (status->state == "ready") {
      Print(view.Finish(*status));
      RemoveFolder();
      return client;
    }
    if (status->state == "failed") {
      return InternalError(StrCat("the worker group failed: ", status->message));
    }
    Print(view.Update(*status));
    std::this_thread::sleep_for(kPollStep);
  }
}

Result<std::unique_ptr<Service>> Service::Open(const ServiceOptions& options,
                                               Interrupts& interrupts) {
  auto service = std::make_unique<Service>();
  if (!options.connect.empty()) {
    if (options.tp || options.pp != 1 || options.threads != 0 || options.backend != "auto" ||
        !options.schedule.empty() || !options.settings.empty()) {
      Print(
          "note: layout, threads, backend, schedule and --set are those of the running service; "
          "what was given here has no effect\n");
    }
    ClientOptions connect;
    connect.endpoint = options.connect;
    ASSIGN_OR_RETURN(service->client_, Client::Connect(connect));
    return service;
  }
  ASSIGN_OR_RETURN(const ServiceConfig config, LocalConfig(options));
  ASSIGN_OR_RETURN(const std::string warning, CheckLayout(config));
  if (!warning.empty()) Print(warning + "\n");
  ASSIGN_OR_RETURN(service->coordinator_, CoordinatorProcess::Start(config, options.verbose));
  ASSIGN_OR_RETURN(service->client_, service->coordinator_->WaitReady(interrupts));
  return service;
}

Status Service::Check() {
  if (!coordinator_) return Status();
  const auto ended = coordinator_->Poll();
  return ended ? Status(coordinator_->Ended(*ended)) : Status();
}

Status Service::Close() {
  client_.reset();
  if (!coordinator_) return Status();
  const int status = coordinator_->Stop();
  coordinator_.reset();
  if (status == 0) return Status();
  return InternalError(StrCat("the coordinator ended with status ", status));
}

}  // namespace echelon
