#include "coordinator/metrics.h"

#include <gtest/gtest.h>

#include <regex>
#include <set>
#include <sstream>

namespace echelon {
namespace {

std::string Filled() {
  Metrics metrics("0.1.0+abc", "a \"model\"\nname");
  metrics.ObserveQueueTime(0.4);
  metrics.ObserveFirstToken(0.03);
  metrics.ObserveInterToken(0.02);
  metrics.RequestFinished("stop", 1.5);
  metrics.AddPromptTokens(10);
  metrics.AddGenerationTokens(3);
  metrics.SetRequests(2, 5);
  metrics.SetKvUsage(0.25);
  metrics.ObserveRankStep({1, 0.01f, 0.002f, 0.001f, 5, 7}, "node-b");
  metrics.SetLoadProgress(0, "node-a", 50, 100);
  metrics.SetGroupReady(true);
  metrics.ObserveStepOverhead(0.00002);
  metrics.SetPreemptions(4);
  metrics.SetPreemptions(4);
  metrics.SetGroupRestarts(1);
  metrics.SetDraftTokens(9, 4);
  metrics.SetRefused("resource_exhausted", 1);
  metrics.SetDroppedFrames(3, 6);
  metrics.SetDroppedReplies(8);
  return metrics.Text();
}

bool Has(const std::string& text, const std::string& line) {
  return text.find("\n" + line + "\n") != std::string::npos;
}

TEST(Metrics, ValuesArriveUnderTheDocumentedNames) {
  const std::string text = Filled();
  for (const char* line :
       {"echelon_prompt_tokens_total 10",
        "echelon_generation_tokens_total 3",
        "echelon_group_frames_dropped_total{reason=\"stale\"} 3",
        "echelon_group_frames_dropped_total{reason=\"malformed\"} 6",
        "echelon_replies_dropped_total 8",
        "echelon_requests_running 2",
        "echelon_requests_waiting 5",
        "echelon_kv_cache_usage_ratio 0.25",
        "echelon_preemptions_total 4",
        "echelon_group_restarts_total 1",
        "echelon_replay_tokens_forced_total 0",
        "echelon_replay_logit_mismatch_total 0",
        "echelon_spec_decode_num_draft_tokens_total 9",
        "echelon_spec_decode_num_accepted_tokens_total 4",
        "echelon_request_success_total{finished_reason=\"stop\"} 1",
        "echelon_request_success_total{finished_reason=\"length\"} 0",
        "echelon_time_to_first_token_seconds_bucket{le=\"0.02\"} 0",
        "echelon_time_to_first_token_seconds_bucket{le=\"0.04\"} 1",
        "echelon_time_to_first_token_seconds_bucket{le=\"2560\"} 1",
        "echelon_inter_token_latency_seconds_bucket{le=\"0.025\"} 1",
        "echelon_e2e_request_latency_seconds_bucket{le=\"7680\"} 1",
        "echelon_ring_attentions_total{node=\"node-b\",passed=\"queries\",rank=\"1\"} 5",
        "echelon_ring_attentions_total{node=\"node-b\",passed=\"keys\",rank=\"1\"} 7",
        "echelon_request_queue_time_seconds_count 1",
        "echelon_scheduler_step_overhead_seconds_count 1"}) {
    EXPECT_TRUE(Has(text, line)) << line;
  }
  EXPECT_NE(text.find("phase=\"comm_hidden\""), std::string::npos);
  EXPECT_NE(text.find("node=\"node-b\""), std::string::npos);
}

TEST(Metrics, LabelValuesAreEscaped) {
  EXPECT_NE(Filled().find(R"(model_name="a \"model\"\nname")"), std::string::npos);
}

// The rules that `promtool check metrics` applies.
TEST(Metrics, NamesFollowPrometheusRules) {
  std::istringstream lines(Filled());
  std::set<std::string> helped;
  std::string line;
  int types = 0;
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    std::string hash, kind, name, type;
    words >> hash >> kind >> name >> type;
    if (kind == "HELP") {
      helped.insert(name);
      EXPECT_FALSE(type.empty()) << name << " has no help";
    }
    if (kind != "TYPE") continue;
    ++types;
    EXPECT_TRUE(helped.count(name)) << name;
    EXPECT_TRUE(std::regex_match(name, std::regex("echelon_[a-z0-9_]+"))) << name;
    const bool total = name.size() > 6 && name.compare(name.size() - 6, 6, "_total") == 0;
    EXPECT_EQ(type == "counter", total) << name << " is a " << type;
    EXPECT_FALSE(std::regex_search(name, std::regex("_(ms|us|milliseconds|kb|mb|gb|percent)(_|$)")))
        << name << ": base units only";
    if (type == "histogram") {
      EXPECT_NE(name.find("_seconds"), std::string::npos) << name;
    }
  }
  EXPECT_GE(types, 20);
}

}  // namespace
}  // namespace echelon
