#pragma once
// Fakes for the coordinator's tests: a tokenizer of bytes, clients without sockets, and a worker
// group that computes a deterministic token function from what really lies in its KV pages, and
// checks every plan against the contract of common/step.h.

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/model/tokenizer.h"
#include "coordinator/client_transport.h"
#include "coordinator/group.h"

namespace echelon::testing {

// Ids 0 to 255 are bytes, 256 ends a text, 257 begins one; both are special.
class ByteTokenizer final : public Tokenizer {
 public:
  static constexpr int32_t kEnd = 256, kBos = 257, kVocab = 258;
  std::vector<int32_t> Encode(std::span<const TextSpan> spans, bool add_special) const override {
    std::vector<int32_t> ids;
    if (add_special) ids.push_back(kBos);
    for (const TextSpan& span : spans) {
      for (const char c : span.text) ids.push_back(static_cast<unsigned char>(c));
    }
    return ids;
  }
  using Tokenizer::Encode;
  int32_t vocab_size() const override { return kVocab; }
  std::string TokenBytes(int32_t id) const override {
    return id >= 0 && id < 256 ? std::string(1, static_cast<char>(id)) : "";
  }
  bool IsSpecial(int32_t id) const override { return id >= 256; }
  std::string Decode(std::span<const int32_t> ids) const override {
    Detokenizer detokenizer(*this);
    std::string text;
    for (const int32_t id : ids) text += detokenizer.Push(id);
    return text + detokenizer.Flush();
  }
  int32_t bos_id() const override { return kBos; }
  const std::vector<int32_t>& end_ids() const override { return ends_; }
  const std::string& chat_template() const override { return template_; }

 private:
  std::vector<int32_t> ends_ = {kEnd};
  std::string template_;
};

// The model of the fake group: the token after `tokens`, and its logit.
struct FakeToken {
  int32_t id = 0;
  float logit = 0;
};
inline FakeToken NextToken(uint64_t seed, const std::vector<int32_t>& tokens) {
  uint64_t hash = seed * 0x9E3779B97F4A7C15ULL + 1;
  for (const int32_t token : tokens) {
    hash = (hash ^ static_cast<uint32_t>(token)) * 0xFF51AFD7ED558CCDULL;
    hash ^= hash >> 29;
  }
  static constexpr const char* kText =
      "abcdefgh \xC3\xA9\xE2\x82\xAC";  // with 2 and 3 byte characters
  // Some of these models repeat themselves, mostly: there is something to guess.
  constexpr size_t kPeriod = 5;
  if (seed % 3 == 0 && tokens.size() > kPeriod && hash % 8 != 0) {
    return {tokens[tokens.size() - kPeriod], static_cast<float>(hash % 100000) / 1000.0f};
  }
  const uint64_t pick = (hash >> 8) % 400;
  const int32_t id = pick < 8 ? ByteTokenizer::kEnd : static_cast<unsigned char>(kText[pick % 14]);
  return {id, static_cast<float>(hash % 100000) / 1000.0f};
}

class FakeGroup final : public WorkerGroup {
 public:
  struct Options {
    GroupCapacity capacity{64, 4, 256, ByteTokenizer::kVocab};
    int world = 2;
    std::function<int64_t()> step_us = [] { return int64_t{1000}; };
  };
  FakeGroup(Options options, const Clock& clock) : options_(std::move(options)), clock_(clock) {
    ranks_.resize(options_.world);
    for (int rank = 0; rank < options_.world; ++rank) {
      ranks_[rank].rank = rank;
      ranks_[rank].host = "host" + std::to_string(rank);
    }
  }

  // What tests do to it.
  void BecomeReady() {
    ++epoch_;
    next_step_ = 1;
    sequences_.clear();
    pages_.assign(options_.capacity.kv_pages,
                  std::vector<int32_t>(options_.capacity.page_tokens, -1));
    state_ = GroupState::kReady;
  }
  void Lose(int rank) {
    Error error = InternalError("rank was killed");
    error.rank = rank;
    error.host = ranks_[rank].host;
    lost_.push_back({epoch_, error});
    queue_.clear();
    ++counters_.relaunches;
    state_ = GroupState::kRelaunching;
  }
  void Distrust(const Error& error) override {
    ++distrusted;
    lost_.push_back({epoch_, error});
    queue_.clear();
    ++counters_.relaunches;
    state_ = GroupState::kRelaunching;
  }
  int distrusted = 0;
  void FailForGood() {
    failure_ = Unavailable("too many losses");
    queue_.clear();
    state_ = GroupState::kFailed;
  }
  void SetCapacity(GroupCapacity capacity) { options_.capacity = capacity; }
  void CorruptLogits(bool on) { corrupt_ = on; }
  size_t in_flight() const { return queue_.size(); }
  size_t in_flight_most() const { return in_flight_most_; }
  const std::vector<StepPlan>& plans() const { return plans_; }
  void KeepPlans(bool on) { keep_plans_ = on; }
  std::function<void(StepResult&)> tamper;  // on results, as they leave

  bool never_idle = false;
  bool Tick() override { return never_idle; }
  int wake_fd() const override { return -1; }
  GroupState state() const override { return state_; }
  uint64_t epoch() const override { return epoch_; }
  const std::vector<RankStatus>& ranks() const override { return ranks_; }
  GroupCapacity capacity() const override { return options_.capacity; }
  std::string weights_fingerprint() const override { return "weights"; }
  std::string numerics_fingerprint() const override { return "numerics"; }
  const GroupCounters& counters() const override { return counters_; }
  std::optional<Error> failure() const override { return failure_; }
  void Shutdown() override { state_ = GroupState::kStopped; }
  std::vector<LostGroup> TakeLost() override { return std::exchange(lost_, {}); }

  Status SendPlan(const StepPlan& plan) override {
    EXPECT_EQ(plan.epoch, epoch_);
    EXPECT_EQ(plan.step_id, next_step_++);
    if (keep_plans_) plans_.push_back(plan);
    const int64_t from = queue_.empty() ? clock_.NowUs() : queue_.back().ready_us;
    queue_.push_back({std::max(from, clock_.NowUs()) + options_.step_us(), Execute(plan)});
    in_flight_most_ = std::max(in_flight_most_, queue_.size());
    return Status();
  }
  std::vector<StepResult> TakeResults() override {
    std::vector<StepResult> results;
    while (!queue_.empty() && queue_.front().ready_us <= clock_.NowUs()) {
      if (tamper) tamper(queue_.front().result);
      results.push_back(std::move(queue_.front().result));
      queue_.pop_front();
    }
    return results;
  }

 private:
  struct State {
    std::vector<int32_t> table;
    SamplingParams params;
    int32_t prompt_tokens = 0;
    int32_t fed = 0;
    int32_t drafts = 0;    // of those, by the step before
    int32_t sampled = -1;  // by the step before
    uint64_t sampled_step = 0;
  };
  struct Pending {
    int64_t ready_us = 0;
    StepResult result;
  };

  StepResult Execute(const StepPlan& plan) {
    StepResult result;
    result.step_id = plan.step_id;
    result.epoch = plan.epoch;
    for (const SequenceId id : plan.released) EXPECT_EQ(sequences_.erase(id), 1u) << "seq " << id;
    std::set<SequenceId> seen;
    EXPECT_FALSE(plan.sequences.empty());
    for (const SequenceStep& step : plan.sequences) {
      EXPECT_TRUE(seen.insert(step.id).second);
      result.sequences.push_back(ExecuteOne(plan, step));
    }
    for (int rank = 0; rank < options_.world; ++rank) {
      result.timings.push_back({rank, 0.001f, 0.0005f, 0.0001f});
    }
    return result;
  }

  SequenceResult ExecuteOne(const StepPlan& plan, const SequenceStep& step) {
    if (step.first) {
      EXPECT_EQ(sequences_.count(step.id), 0u);
      EXPECT_EQ(step.start_position, 0);
      sequences_[step.id] = State{{}, step.params, step.prompt_tokens, 0, 0, -1, 0};
    }
    EXPECT_EQ(sequences_.count(step.id), 1u);
    State& state = sequences_[step.id];
    EXPECT_LE(step.start_position, state.fed);
    EXPECT_GE(step.start_position, state.fed - state.drafts);
    state.fed = step.start_position;
    state.drafts = step.drafts;
    EXPECT_FALSE(step.drafts > 0 && state.params.penalised());
    state.table.insert(state.table.end(), step.new_pages.begin(), step.new_pages.end());
    EXPECT_FALSE(step.tokens.empty());
    for (int32_t token : step.tokens) {
      if (token == kTokenFromLastStep) {
        EXPECT_EQ(step.drafts, 0);
        EXPECT_EQ(state.sampled_step + 1, plan.step_id);
        token = state.sampled;
      }
      EXPECT_TRUE(token >= 0 && token < ByteTokenizer::kVocab);
      Slot(state, state.fed++) = token;
    }
    SequenceResult out;
    out.id = step.id;
    if (step.sample) {
      EXPECT_TRUE(step.drafts == 0 || step.tokens.size() == 1 + static_cast<size_t>(step.drafts));
      for (int32_t row = state.fed - 1 - step.drafts; row < state.fed; ++row) {
        const FakeToken next = NextToken(state.params.seed, Tokens(state, row + 1));
        out.sampled.push_back({next.id, corrupt_ ? next.logit + 1 : next.logit, {}});
        if (state.params.logprobs >= 0) out.sampled.back().top = {{next.id, -0.5f}};
        if (row + 1 < state.fed && Slot(state, row + 1) != next.id) break;
      }
      state.sampled = out.sampled.back().token;
      // A step with drafts is followed by the token itself, whose place is not known before.
      state.sampled_step = step.drafts == 0 ? plan.step_id : 0;
    }
    if (state.params.prompt_logprobs >= 0) {
      const int32_t end = std::min(state.fed, state.prompt_tokens);
      for (int32_t position = std::max(step.start_position, 1); position < end; ++position) {
        out.prompt_top.push_back({{position, -1.0f}});
      }
    }
    return out;
  }
  int32_t& Slot(const State& state, int32_t position) {
    return pages_.at(state.table.at(position / options_.capacity.page_tokens))
        .at(position % options_.capacity.page_tokens);
  }
  std::vector<int32_t> Tokens(const State& state, int32_t count) {
    std::vector<int32_t> tokens;
    for (int32_t position = 0; position < count; ++position)
      tokens.push_back(Slot(state, position));
    return tokens;
  }

  Options options_;
  const Clock& clock_;
  GroupState state_ = GroupState::kStarting;
  uint64_t epoch_ = 0;
  uint64_t next_step_ = 1;
  bool corrupt_ = false;
  bool keep_plans_ = false;
  std::vector<RankStatus> ranks_;
  GroupCounters counters_;
  std::optional<Error> failure_;
  std::vector<LostGroup> lost_;
  std::map<SequenceId, State> sequences_;
  std::vector<std::vector<int32_t>> pages_;
  std::deque<Pending> queue_;
  size_t in_flight_most_ = 0;
  std::vector<StepPlan> plans_;
};

// Clients without sockets: what was sent to each, and who is full or gone.
class FakeTransport final : public ClientTransport {
 public:
  struct Sent {
    std::string protocol, type, id, body;
  };
  void Push(const std::string& identity, std::vector<std::string> parts) {
    ClientMessage message;
    message.identity = identity;
    message.part_count = parts.size();
    if (parts.size() > kClientPartsKept) parts.resize(kClientPartsKept);
    message.parts = std::move(parts);
    in_.push_back(std::move(message));
  }
  void Push(const std::string& identity, const std::string& type, const std::string& id,
            const std::string& body) {
    Push(identity, {"echelon/1", type, id, body});
  }
  std::vector<Sent> Take(const std::string& identity) { return std::exchange(sent_[identity], {}); }
  std::set<std::string> full, gone;
  std::map<std::string, int> refused;  // how often a full or gone identity was tried

  bool Receive(ClientMessage& message) override {
    if (in_.empty()) return false;
    message = std::move(in_.front());
    in_.pop_front();
    return true;
  }
  SendResult Send(const std::string& identity,
                  const std::vector<std::string_view>& parts) override {
    if (gone.count(identity) > 0) return ++refused[identity], SendResult::kGone;
    if (full.count(identity) > 0) return ++refused[identity], SendResult::kFull;
    EXPECT_EQ(parts.size(), 4u);
    sent_[identity].push_back({std::string(parts[0]), std::string(parts[1]), std::string(parts[2]),
                               std::string(parts[3])});
    return SendResult::kSent;
  }
  int wake_fd() const override { return -1; }
  bool HasInput() override { return !in_.empty(); }
  std::string endpoint() const override { return "fake"; }

 private:
  std::deque<ClientMessage> in_;
  std::map<std::string, std::vector<Sent>> sent_;
};

}  // namespace echelon::testing
