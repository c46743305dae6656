#pragma once
// ServiceConfig: every setting of the service, with a limit, a unit and a default each. One table
// of rows (config.cc) names the keys; file, flags, the printed effective configuration and the
// sample deploy/echelon.yaml all go through it. Precedence: flags over file over default.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/result.h"

namespace echelon {

struct ModelSettings {
  std::string path;                  // .gguf, .safetensors or a folder
  std::string name;                  // what clients call it; default: the path's last part
  std::string load_format = "auto";  // auto | dummy
  int64_t dummy_seed = 0;
  int64_t context_max_tokens = 0;       // 0 = the checkpoint's own
  std::string schedule = "checkpoint";  // checkpoint | standard | ladder | parallel | desync
  std::string ladder_layers;            // "1,3,5" or "last:10"; "" = all (schedule ladder)
  std::string desync_pattern;
};
struct LayoutSettings {
  int64_t tp = 1, pp = 1, sp = 1;
  std::string layers_per_stage;  // "8,8,7,7"; "" = balanced by cost
  std::string shard_shares;      // "2,1"; "" = even
};
struct WorkerSettings {
  std::string backend = "auto";  // auto | cpu | reference | cuda; or one of these a stage: "a,b"
  std::string device_exchange = "auto";  // auto | peer | nccl | staged
  int64_t threads = 0;           // per rank; 0 = the host's cores shared out among its ranks
  std::string isa = "auto";      // auto | avx2 | avxvnni | avx512
  int64_t kv_memory_bytes = 0;   // per rank; 0 = a quarter of a host's free memory, or
                                 // nine tenths of a device's, shared out
  std::string kv_type = "auto";  // auto | f32 | f16 | q8_0
  int64_t page_tokens = 16;
  std::string shared_memory = "auto";  // auto | off
  std::string token_split = "auto";    // auto | on | off
  std::string measure_memory = "no";   // no | yes
  std::string trace;                   // folder; "" = none
};
struct SchedulerSettings {
  int64_t queue_requests_max = 256;
  int64_t queue_tokens_max = 1 << 20;
  int64_t sequences_max = 64;       // running at once
  int64_t step_tokens_max = 512;    // rows of one step: prefill chunk and decodes together
  int64_t steps_in_flight_max = 0;  // 0 = chosen from the layout
  int64_t deadline_default_ms = 0;  // 0 = none
  int64_t max_tokens_default = 128;
  int64_t request_losses_max = 2;            // lost groups that a running request outlives
  int64_t drain_ms = 10'000;                 // for requests under way when the service is to end
  std::string speculation = "off";           // off | prompt_lookup; for requests that do not say
  int64_t speculation_tokens_max = 8;        // guessed in one step, all requests together
  int64_t speculation_ngram_max_tokens = 4;  // the end of the text that must have stood before
  int64_t speculation_ngram_min_tokens = 2;
};
struct FrontendSettings {
  std::string endpoint = "tcp://127.0.0.1:5760";
  int64_t message_bytes_max = 4 << 20;
  int64_t clients_max = 1024;
  int64_t resume_ttl_ms = 60'000;  // of a finished answer, and of a request without its client
  int64_t slow_reader_timeout_ms = 30'000;
  int64_t undelivered_bytes_max = 64 << 20;  // of all streams together
};
struct MetricsSettings {
  std::string address = "127.0.0.1:9760";  // "" = off
};
struct GroupSettings {
  std::string launcher = "local";              // local | hostfile | slurm | external
  std::string hosts;                           // hostfile: path, or "host1:2,host2:2"
  std::string remote_agent;                    // command mpirun uses instead of ssh
  std::string interface;                       // CIDR or name for MPI, NCCL, control; "" = by route
  std::string endpoint = "tcp://127.0.0.1:0";  // workers' socket; port 0 = any free one
  std::string mpirun_extra;                    // more words for the launcher command
  int64_t heartbeat_interval_ms = 500;
  int64_t heartbeat_timeout_ms = 3'000;
  int64_t step_deadline_ms = 30'000;
  int64_t join_deadline_ms = 60'000;
  int64_t load_deadline_ms = 600'000;
  int64_t lease_ms = 5'000;    // a worker without the coordinator's heartbeat ends itself
  int64_t relaunches_max = 5;  // within relaunch_window_ms or in vain, then the service gives up
  int64_t relaunch_window_ms = 60'000;
};

struct ServiceConfig {
  ModelSettings model;
  LayoutSettings layout;
  WorkerSettings worker;
  SchedulerSettings scheduler;
  FrontendSettings frontend;
  MetricsSettings metrics;
  GroupSettings group;
};

// One documented key, for help texts and the test that compares code and sample.
struct ConfigKey {
  std::string name;  // "scheduler.queue_requests_max"
  std::string unit;  // "requests", "ms", "bytes", "" ...
  std::string default_value;
  std::string help;
};
std::vector<ConfigKey> ConfigKeys();

// `overrides`: (key, value) pairs as flags give them, applied after the text. `source` names the
// text in errors. Unknown keys name the nearest known key; wrong types and ranges name the key,
// the value and what is allowed.
using ConfigOverrides = std::vector<std::pair<std::string, std::string>>;
Result<ServiceConfig> ParseConfig(std::string_view yaml, std::string_view source,
                                  const ConfigOverrides& overrides = {});
Result<ServiceConfig> LoadConfig(const std::string& path, const ConfigOverrides& overrides = {});
// The effective configuration as YAML that ParseConfig reads back to the same.
std::string PrintConfig(const ServiceConfig& config);

}  // namespace echelon
