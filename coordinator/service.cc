#include "coordinator/service.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <random>

#include "common/control.h"
#include "common/model/chat_template.h"
#include "common/nearest_layouts.h"
#include "common/run_setup.h"
#include "common/strings.h"
#include "coordinator/coordinator.h"
#include "coordinator/launcher.h"
#include "coordinator/metrics_http.h"

namespace echelon {

namespace {

// Prompts that wait for the tokenizer; scheduler.queue_requests_max may be set above it.
constexpr size_t kEncodeJobsMax = 4096;
// From the group's Shutdown to giving up on it: TERM, 2 s, KILL, leases.
constexpr int64_t kStopUsMax = 15'000'000;

// `chat_template` stays null, with a warning, where the model's own cannot be parsed.
std::unique_ptr<ChatTemplate> LoadTemplate(const Tokenizer& tokenizer, const Logger& logger) {
  if (tokenizer.chat_template().empty()) return nullptr;
  auto parsed = ParseChatTemplate(tokenizer.chat_template());
  if (parsed.ok()) return std::move(parsed).value();
  logger.Warn(StrCat("chat template: ", parsed.error().message, "; messages will be refused"));
  return nullptr;
}

HttpAnswer AnswerHttp(const std::string& path, const Metrics& metrics, const Health& health,
                      const Clock& clock) {
  if (path == "/metrics") return {200, "text/plain; version=0.0.4; charset=utf-8", metrics.Text()};
  const HealthReport report = health.Get();
  const int64_t now = clock.NowUs();
  if (path == "/healthz") {
    if (now < report.alive_until_us) return {200, "text/plain", "ok\n"};
    return {503, "text/plain", report.reason.empty() ? "stalled\n" : report.reason + "\n"};
  }
  if (path == "/readyz") {
    if (now < report.alive_until_us && now < report.ready_until_us) {
      return {200, "text/plain", "ready\n"};
    }
    return {503, "text/plain",
            report.reason.empty() ? "no token was produced lately\n" : report.reason + "\n"};
  }
  return {404, "text/plain", "there are /metrics, /healthz and /readyz\n"};
}

class Service {
 public:
  Service(const ServiceOptions& options, const Logger& logger)
      : options_(options), config_(options.config), logger_(logger) {}

  Status Start();
  Status Run();

 private:
  Status LaunchGroup();
  void Sleep();
  bool StopAsked() const;
  void Drain();
  void Stop();

  const ServiceOptions& options_;
  const ServiceConfig& config_;
  const Logger& logger_;
  SystemClock clock_;
  Health health_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ClientTransport> transport_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<MetricsHttp> http_;
  std::unique_ptr<Frontend> frontend_;
  std::unique_ptr<PromptEncoder> encoder_;
  std::unique_ptr<WorkerGroup> group_;
  std::unique_ptr<Coordinator> coordinator_;
};

Status Service::Start() {
  ASSIGN_OR_RETURN(const RunSetup setup, SetUpRun(config_));
  ASSIGN_OR_RETURN(const int64_t slots, SlotsOf(config_.group));
  RETURN_IF_ERROR(
      CheckLayoutLimits(setup.layout, setup.effective.model,
                        LimitsOf(setup.effective.model, config_.model.context_max_tokens,
                                 config_.worker.page_tokens, slots)));
  if (!setup.effective.warning.empty()) logger_.Warn(setup.effective.warning);
  ASSIGN_OR_RETURN(transport_, MakeZmqClientTransport({config_.frontend.endpoint,
                                                       config_.frontend.message_bytes_max}));
  // Before the tokenizer is read (a vocabulary of 262,144: 0.2 s): the ranks start meanwhile.
  RETURN_IF_ERROR(LaunchGroup());
  ASSIGN_OR_RETURN(RunTokenizer loaded, LoadRunTokenizer(config_.model, setup.effective.model));
  if (!loaded.note.empty()) logger_.Info(loaded.note);
  tokenizer_ = std::move(loaded.tokenizer);
  const std::string model = config_.model.name.empty()
                                ? std::filesystem::path(config_.model.path).filename().string()
                                : config_.model.name;
  metrics_ = std::make_unique<Metrics>(BuildId(), model);
  std::string metrics_address;
  if (!config_.metrics.address.empty()) {
    ASSIGN_OR_RETURN(http_, StartMetricsHttp(config_.metrics.address, [this](const auto& path) {
                       return AnswerHttp(path, *metrics_, health_, clock_);
                     }));
    metrics_address = http_->address();
  }
  logger_.Info(StrCat("model ", model, ", clients on ", transport_->endpoint(), ", metrics on ",
                      metrics_address.empty() ? "no address" : metrics_address));
  frontend_ = std::make_unique<Frontend>(
      config_.frontend,
      SubmitLimits{std::min<int64_t>(tokenizer_->vocab_size(), setup.effective.model.vocab_size),
                   config_.scheduler.deadline_default_ms,
                   config_.scheduler.speculation == "prompt_lookup"},
      *transport_, clock_);
  frontend_->SetFacts({model,
                       static_cast<int>(config_.layout.tp),
                       static_cast<int>(config_.layout.pp),
                       static_cast<int>(config_.layout.sp),
                       ScheduleName(setup.effective.model.schedule),
                       {}});
  encoder_ = MakeThreadedEncoder(*tokenizer_, LoadTemplate(*tokenizer_, logger_), kEncodeJobsMax);
  std::random_device random;
  // Seeds only have to differ; clients that want a certain one give it.
  const uint64_t start = (uint64_t{random()} << 32) ^ random();
  auto draw = [engine = std::mt19937_64(start)]() mutable { return engine(); };
  coordinator_ = std::make_unique<Coordinator>(
      CoordinatorParts{config_, clock_, logger_, *tokenizer_, *frontend_, *encoder_, *group_,
                       *metrics_, health_, std::move(draw)});
  return options_.announce({transport_->endpoint(), metrics_address});
}

Status Service::LaunchGroup() {
  WorkerGroupOptions options;
  options.settings = config_.group;
  options.world = static_cast<int>(config_.layout.tp * config_.layout.pp * config_.layout.sp);
  options.config_yaml = PrintConfig(config_);
  options.worker_program = options_.worker_program;
  ASSIGN_OR_RETURN(group_, MakeWorkerGroup(options, clock_, logger_));
  return Status();
}

// True once for every signal: what is read no longer wakes the poll.
bool Service::StopAsked() const {
  char signal_info[128];  // sizeof(signalfd_siginfo)
  return options_.stop_fd >= 0 && read(options_.stop_fd, signal_info, sizeof signal_info) > 0;
}

// Until something arrives, or a deadline. The sockets' descriptors are edge-triggered: each is
// asked once more before it is trusted to wake.
void Service::Sleep() {
  if (group_->Tick() || transport_->HasInput()) return;
  int64_t wait_us = int64_t{kGroupTickMsMax} * 1000;
  const int64_t wake = coordinator_->NextWakeUs();
  wait_us = std::min(wait_us, std::max<int64_t>(0, wake - clock_.NowUs()));
  pollfd fds[] = {{group_->wake_fd(), POLLIN, 0},
                  {transport_->wake_fd(), POLLIN, 0},
                  {encoder_->wake_fd(), POLLIN, 0},
                  {options_.stop_fd, POLLIN, 0}};
  (void)poll(fds, 4, static_cast<int>((wait_us + 999) / 1000));
}

Error ShuttingDown() { return Unavailable("the service is shutting down"); }

// Requests under way may end by themselves; asked again, nobody waits for them.
void Service::Drain() {
  const int64_t drain_ms = config_.scheduler.drain_ms;
  coordinator_->Drain(ShuttingDown());
  logger_.Info(coordinator_->quiet()
                   ? std::string("stopping")
                   : StrCat("stopping: ", coordinator_->live(), " requests may go on for ",
                            drain_ms, " ms (scheduler.drain_ms), or until asked again"));
  const int64_t until = clock_.NowUs() + drain_ms * 1000;
  while (!coordinator_->quiet() && !coordinator_->failure() && clock_.NowUs() < until) {
    if (StopAsked()) return;
    coordinator_->Tick();
    Sleep();
  }
}

void Service::Stop() {
  coordinator_->Close(ShuttingDown());
  group_->Shutdown();
  const int64_t until = clock_.NowUs() + kStopUsMax;
  while (group_->state() != GroupState::kStopped && clock_.NowUs() < until) {
    if (StopAsked()) {
      logger_.Warn("asked again: the workers are killed");
      return;  // ~WorkerGroup kills what is left
    }
    coordinator_->Tick();
    Sleep();
  }
}

Status Service::Run() {
  while (!coordinator_->failure()) {
    coordinator_->Tick();
    if (StopAsked()) {
      Drain();
      Stop();
      return Status();
    }
    Sleep();
  }
  const Error failure = *coordinator_->failure();
  Stop();
  return failure;
}

}  // namespace

Status RunService(const ServiceOptions& options, const Logger& logger) {
  Service service(options, logger);
  RETURN_IF_ERROR(service.Start());
  return service.Run();
}

}  // namespace echelon
