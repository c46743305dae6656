#include "tests/chaos/group_driver.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "common/run_setup.h"
#include "common/strings.h"

namespace echelon::testing {

namespace {

constexpr char kTinyConfig[] = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama",
  "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4,
  "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320,
  "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
  "hidden_act": "silu", "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2
})";

// Field `index` (from 3: state) of /proc/<pid>/stat, counted after the name in parentheses.
std::string StatField(pid_t pid, int index) {
  std::ifstream file(StrCat("/proc/", pid, "/stat"));
  std::string line;
  std::getline(file, line);
  const size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return "";
  std::istringstream rest(line.substr(name_end + 1));
  std::string field;
  for (int i = 3; i <= index; ++i) rest >> field;
  return field;
}

}  // namespace

TinyModel::TinyModel() {
  std::string name = (std::filesystem::temp_directory_path() / "echelon-chaos-XXXXXX").string();
  path_ = mkdtemp(name.data());
  std::ofstream(path_ + "/config.json") << kTinyConfig;
}

TinyModel::~TinyModel() { std::filesystem::remove_all(path_); }

ServiceConfig ChaosConfig(const std::string& path) {
  ServiceConfig config;
  config.model.path = path;
  config.model.load_format = "dummy";
  config.model.dummy_seed = 11;
  config.layout.tp = 2;
  config.worker.backend = "reference";
  config.worker.threads = 1;
  config.worker.kv_memory_bytes = 4 << 20;
  config.group.heartbeat_interval_ms = 100;
  config.group.heartbeat_timeout_ms = 1500;
  config.group.lease_ms = 3000;
  config.group.step_deadline_ms = 5000;
  return config;
}

GroupDriver::GroupDriver(const ServiceConfig& config, const std::string& worker_program) {
  const auto layout = LayoutFrom(config.layout);
  WorkerGroupOptions options;
  options.settings = config.group;
  options.world = layout->world();
  options.config_yaml = PrintConfig(config);
  options.worker_program = worker_program;
  auto group = MakeWorkerGroup(options, clock_, logger_);
  EXPECT_TRUE(group.ok()) << group.error().message;
  if (group.ok()) group_ = std::move(*group);
}

bool GroupDriver::Until(const std::function<bool()>& done, int64_t timeout_ms) {
  const int64_t deadline_us = clock_.NowUs() + timeout_ms * 1000;
  for (;;) {
    while (group_->Tick()) {
    }
    if (done()) return true;
    if (clock_.NowUs() > deadline_us) return false;
    pollfd item{group_->wake_fd(), POLLIN, 0};
    poll(&item, 1, 5);
  }
}

bool GroupDriver::UntilState(GroupState state, int64_t timeout_ms) {
  const bool reached =
      Until([&] { return group_->state() == state || group_->state() == GroupState::kFailed; },
            timeout_ms);
  return reached && group_->state() == state;
}

std::optional<int32_t> GroupDriver::Step(StepPlan plan) {
  if (epoch_ != group_->epoch()) next_step_ = 1;
  epoch_ = group_->epoch();
  plan.epoch = epoch_;
  plan.step_id = next_step_++;
  if (!group_->SendPlan(plan).ok()) return std::nullopt;
  std::vector<StepResult> results;
  Until(
      [&] {
        results = group_->TakeResults();
        return !results.empty() || group_->state() != GroupState::kReady;
      },
      60'000);
  if (results.empty() || results[0].sequences.empty()) return std::nullopt;
  if (results[0].sequences[0].sampled.empty()) return std::nullopt;
  return results[0].sequences[0].sampled[0].token;
}

std::vector<int32_t> GroupDriver::Generate(const std::vector<int32_t>& prompt, int count,
                                           const std::function<void(int)>& each) {
  const int page_tokens = static_cast<int>(group_->capacity().page_tokens);
  if (page_tokens == 0) return {};  // never was ready
  SequenceStep step;
  step.id = next_sequence_++;
  step.tokens = prompt;
  step.sample = true;
  step.first = true;
  step.params.temperature = 0.0f;
  step.prompt_tokens = static_cast<int32_t>(prompt.size());
  std::vector<int32_t> generated;
  int pages = 0;
  int position = 0;
  while (static_cast<int>(generated.size()) < count) {
    step.start_position = position;
    position += static_cast<int>(step.tokens.size());
    step.new_pages.clear();
    while (pages * page_tokens < position) step.new_pages.push_back(pages++);
    StepPlan plan;
    plan.sequences = {step};
    const auto token = Step(plan);
    if (!token) return generated;
    generated.push_back(*token);
    if (each) each(static_cast<int>(generated.size()));
    step.first = false;
    step.tokens = {kTokenFromLastStep};
  }
  StepPlan release;
  release.released = {step.id};
  Step(release);
  return generated;
}

std::vector<pid_t> GroupDriver::RankPids() const {
  std::vector<pid_t> pids;
  for (const RankStatus& rank : group_->ranks()) pids.push_back(static_cast<pid_t>(rank.pid));
  return pids;
}

std::string TestProgram(const std::string& name) {
  return (std::filesystem::read_symlink("/proc/self/exe").parent_path() / name).string();
}

std::string WorkerProgram() { return TestProgram("../bin/echelon-worker"); }

bool IsAlive(pid_t pid) {
  const std::string state = StatField(pid, 3);
  return !state.empty() && state != "Z" && state != "X";
}

pid_t ParentOf(pid_t pid) { return std::atoi(StatField(pid, 4).c_str()); }

std::vector<std::string> FilesOf(pid_t pid) {
  std::vector<std::string> found;
  for (const char* folder : {"/tmp", "/dev/shm"}) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      const std::string name = entry.path().filename().string();
      if (name.rfind(StrCat("echelon-group-", pid, "."), 0) == 0) {
        found.push_back(entry.path().string());
      }
    }
  }
  return found;
}

}  // namespace echelon::testing
