// Simulation of the whole coordinator core from a seed: clients that submit, read slowly, break off
// and resume, cancel, run out of time; a group that is slow, loses ranks and comes back with other
// capacities. Whatever happens, every stream equals the request's own solo run, no page leaks,
// nothing is stuck. A failing seed replays identically: ECHELON_SIM_FIRST=<seed>
// ECHELON_SIM_SEEDS=1.

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "common/strings.h"
#include "coordinator/coordinator.h"
#include "tests/support/coordinator_fakes.h"

namespace echelon {
namespace {

using testing::ByteTokenizer;
using testing::FakeGroup;
using testing::FakeTransport;

class Dice {
 public:
  explicit Dice(uint64_t seed) : engine_(seed) {}
  int64_t In(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(engine_() % static_cast<uint64_t>(high - low + 1));
  }
  bool Chance(double probability) {
    return static_cast<double>(engine_() >> 11) * 0x1p-53 < probability;
  }

 private:
  std::mt19937_64 engine_;
};

// What the request would get if it were alone in the world.
struct Solo {
  std::vector<int32_t> tokens;
  std::string text;
  std::string finish;
};
Solo RunSolo(const ByteTokenizer& tokenizer, uint64_t seed, std::vector<int32_t> known,
             int32_t max_tokens, const std::vector<std::string>& stops, bool ignore_eos) {
  Solo solo;
  Detokenizer detokenizer(tokenizer);
  std::string text;
  const auto cut = [&] {
    size_t at = std::string::npos;
    for (const std::string& stop : stops) at = std::min(at, text.find(stop));
    return at;
  };
  solo.finish = "length";
  while (static_cast<int32_t>(solo.tokens.size()) < max_tokens) {
    const int32_t next = testing::NextToken(seed, known).id;
    known.push_back(next);
    solo.tokens.push_back(next);
    text += detokenizer.Push(next);
    if (cut() != std::string::npos) {
      solo.text = text.substr(0, cut());
      solo.finish = "stop";
      return solo;
    }
    if (next == ByteTokenizer::kEnd && !ignore_eos) {
      solo.finish = "stop";
      break;
    }
  }
  solo.text = text + detokenizer.Flush();
  return solo;
}

// One simulated request and the client behind it.
struct Wish {
  std::string id;
  std::string identity;
  int connections = 0;
  std::string body;
  Solo solo;
  bool wants_prompt_logprobs = false;
  int32_t prompt_size = 0;
  // As received on the present connection.
  std::vector<int32_t> tokens;
  std::string text;
  bool accepted = false;
  std::string end;  // "done:stop", "error:unavailable", ...
  // Behaviour.
  int64_t submit_at = 0;
  int64_t cancel_at = -1;
  int64_t break_at = -1;
  int64_t resume_at = -1;
  int64_t last_heard = 0;
  bool submitted = false, cancelled = false, has_deadline = false, over = false;
  int retries = 0;
};

class Simulation {
 public:
  explicit Simulation(uint64_t seed, Metrics& metrics) : dice_(seed), metrics_(metrics) {
    config_.scheduler.sequences_max = dice_.In(1, 8);
    config_.scheduler.step_tokens_max = dice_.In(1, 40);
    config_.scheduler.steps_in_flight_max = dice_.Chance(0.3) ? dice_.In(1, 4) : 0;
    config_.scheduler.queue_requests_max = dice_.In(2, 30);
    config_.scheduler.speculation_tokens_max = dice_.In(0, 12);
    config_.scheduler.speculation_ngram_min_tokens = dice_.In(1, 3);
    config_.scheduler.speculation_ngram_max_tokens =
        config_.scheduler.speculation_ngram_min_tokens + dice_.In(0, 3);
    config_.layout.pp = dice_.Chance(0.4) ? dice_.In(2, 4) : 1;
    config_.frontend.slow_reader_timeout_ms = 2'000;
    config_.frontend.resume_ttl_ms = 3'000;
    FakeGroup::Options options;
    options.capacity = Capacity();
    options.step_us = [this] { return dice_.In(1, 3000); };
    group_ = std::make_unique<FakeGroup>(options, clock_);
    frontend_ = std::make_unique<Frontend>(config_.frontend, SubmitLimits{ByteTokenizer::kVocab, 0},
                                           transport_, clock_);
    encoder_ = MakeInlineEncoder(tokenizer_, nullptr);
    coordinator_ = std::make_unique<Coordinator>(CoordinatorParts{
        config_, clock_, logger_, tokenizer_, *frontend_, *encoder_, *group_, metrics_, health_,
        [this] { return static_cast<uint64_t>(dice_.In(0, 1 << 30)); }});
    const int64_t count = dice_.In(1, 14);
    for (int64_t i = 0; i < count; ++i) wishes_.push_back(MakeWish(static_cast<int>(i)));
    losses_ = losses_left_ = dice_.Chance(0.4) ? dice_.In(1, 3) : 0;
    config_.scheduler.request_losses_max = dice_.In(0, 3);
  }

  void Run() {
    ready_at_ = dice_.In(0, 20'000);
    const int64_t end = 120'000'000;  // simulated; a run takes a few seconds of it
    while (!AllOver() && clock_.NowUs() < end) {
      clock_.AdvanceUs(dice_.In(1, 1500));
      World();
      for (Wish& wish : wishes_) Act(wish);
      coordinator_->Tick();
      if (dice_.Chance(0.05)) coordinator_->CheckInvariants();
      for (Wish& wish : wishes_) Read(wish);
    }
    ASSERT_TRUE(AllOver()) << "stuck: " << coordinator_->StatusJson().Dump() << Stuck();
    // Everybody is served: nothing may be left over once the plans in flight are back.
    for (int i = 0; i < 200 && (coordinator_->live() > 0 || group_->in_flight() > 0); ++i) {
      clock_.AdvanceUs(4000);
      World();
      coordinator_->Tick();
    }
    EXPECT_EQ(coordinator_->live(), 0);
    EXPECT_EQ(coordinator_->scheduler().pages_free(), coordinator_->scheduler().pages_total());
    EXPECT_EQ(frontend_->undelivered_bytes(), 0);
    EXPECT_EQ(frontend_->clients(), 0);
    coordinator_->CheckInvariants();
    EXPECT_EQ(metrics_.Text().find("echelon_replay_logit_mismatch_total 0") == std::string::npos,
              false);
  }
  uint64_t preemptions() const { return coordinator_->scheduler().counters().preemptions; }
  uint64_t forced() const { return coordinator_->scheduler().counters().replay_tokens_forced; }
  uint64_t drafted() const { return coordinator_->scheduler().counters().tokens_drafted; }
  uint64_t accepted() const { return coordinator_->scheduler().counters().drafts_accepted; }

 private:
  GroupCapacity Capacity() {
    const auto page_tokens = static_cast<uint32_t>(dice_.In(1, 5));
    // A request feeds at most 24 + 40 tokens: it fits alone, but not many of them together.
    return {static_cast<uint32_t>(64 / page_tokens + dice_.In(1, 40)), page_tokens, 96,
            ByteTokenizer::kVocab};
  }

  Wish MakeWish(int index) {
    Wish wish;
    wish.id = StrCat("request-", index);
    const int64_t seed = dice_.In(0, 1 << 20);
    std::vector<int32_t> prompt;
    Json ids = Json::MakeArray();
    for (int64_t n = dice_.In(1, 24); n > 0; --n) {
      prompt.push_back(static_cast<int32_t>(dice_.In(97, 122)));
      ids.Append(int64_t{prompt.back()});
    }
    const auto max_tokens = static_cast<int32_t>(dice_.In(0, 40));
    std::vector<std::string> stops;
    if (dice_.Chance(0.4))
      stops = {"ab",
               "\xC3\xA9"
               "a"};
    const bool ignore_eos = dice_.Chance(0.3);
    wish.solo = RunSolo(tokenizer_, seed, prompt, max_tokens, stops, ignore_eos);
    wish.prompt_size = static_cast<int32_t>(prompt.size());
    wish.wants_prompt_logprobs = dice_.Chance(0.3);
    Json body = Json::MakeObject();
    body.Set("prompt", std::move(ids));
    body.Set("max_tokens", int64_t{max_tokens});
    body.Set("seed", seed);
    body.Set("ignore_eos", ignore_eos);
    body.Set("stream", dice_.Chance(0.8));
    if (dice_.Chance(0.1)) body.Set("presence_penalty", 0.5);  // never guessed for
    body.Set("speculation", dice_.Chance(0.6) ? "prompt_lookup" : "off");
    if (wish.wants_prompt_logprobs) body.Set("prompt_logprobs", 1);
    Json stop = Json::MakeArray();
    for (const std::string& text : stops) stop.Append(text);
    body.Set("stop", std::move(stop));
    if (dice_.Chance(0.1)) {
      wish.has_deadline = true;
      body.Set("deadline_ms", dice_.In(1, 60));
    }
    wish.body = body.Dump();
    wish.submit_at = dice_.In(0, 60'000);
    if (dice_.Chance(0.2)) wish.cancel_at = wish.submit_at + dice_.In(0, 80'000);
    if (dice_.Chance(0.2)) wish.break_at = wish.submit_at + dice_.In(0, 80'000);
    return wish;
  }

  // Losses, relaunches.
  void World() {
    const int64_t now = clock_.NowUs();
    if (group_->state() != GroupState::kReady && now >= ready_at_) {
      group_->SetCapacity(Capacity());
      group_->BecomeReady();
    } else if (group_->state() == GroupState::kReady && losses_left_ > 0 && dice_.Chance(0.01)) {
      --losses_left_;
      group_->Lose(static_cast<int>(dice_.In(0, 1)));
      ready_at_ = now + dice_.In(1000, 30'000);
    }
  }

  void Connect(Wish& wish) {
    wish.identity = StrCat(wish.id, "/", ++wish.connections);
    wish.tokens.clear();
    wish.text.clear();
    wish.accepted = false;
  }

  void Act(Wish& wish) {
    const int64_t now = clock_.NowUs();
    if (wish.over || now < wish.submit_at) return;
    if (!wish.submitted) {
      Connect(wish);
      transport_.Push(wish.identity, "submit", wish.id, wish.body);
      wish.submitted = true;
      wish.last_heard = now;
    } else if (now - wish.last_heard > 500'000 && wish.resume_at < 0) {
      // An answer outside a stream is lost when its client does not read: a client asks again.
      transport_.Push(wish.identity, "submit", wish.id, wish.body);
      wish.last_heard = now;
      wish.tokens.clear();
      wish.text.clear();
      wish.accepted = false;
    } else if (wish.cancel_at >= 0 && now >= wish.cancel_at && wish.accepted) {
      transport_.Push("somebody else", "cancel", wish.id, "{}");
      transport_.Push(wish.identity, "cancel", wish.id, "{}");
      wish.cancelled = true;
      wish.cancel_at = -1;
    } else if (wish.break_at >= 0 && now >= wish.break_at && wish.accepted) {
      transport_.gone.insert(wish.identity);
      wish.break_at = -1;
      wish.resume_at = now + dice_.In(0, 100'000);
    } else if (wish.resume_at >= 0 && now >= wish.resume_at) {
      const std::vector<int32_t> had = wish.tokens;
      Connect(wish);
      // From the start, by either way; the tokens so far must come again.
      if (dice_.Chance(0.5)) {
        transport_.Push(wish.identity, "resume", wish.id, R"({"seq":0})");
      } else {
        transport_.Push(wish.identity, "submit", wish.id, wish.body);
      }
      wish.resume_at = -1;
    }
    if (dice_.Chance(0.02)) transport_.full.insert(wish.identity);
    if (dice_.Chance(0.1)) transport_.full.erase(wish.identity);
  }

  void Read(Wish& wish) {
    if (wish.identity.empty()) return;
    for (const FakeTransport::Sent& sent : transport_.Take(wish.identity)) {
      wish.last_heard = clock_.NowUs();
      ASSERT_TRUE(wish.resume_at < 0);  // gone: nothing can arrive
      const Json body = Json::Parse(sent.body, "event").value();
      if (sent.type == "accepted") wish.accepted = true;
      if (sent.type == "tokens") ReadTokens(wish, body);
      if (sent.type == "done") ReadDone(wish, body);
      if (sent.type == "error") ReadError(wish, body);
    }
  }
  void ReadTokens(Wish& wish, const Json& body) {
    ASSERT_TRUE(wish.accepted);
    ASSERT_EQ(body.Find("seq")->as_int(), static_cast<int64_t>(wish.tokens.size()));
    for (const Json& id : body.Find("token_ids")->as_array()) {
      wish.tokens.push_back(static_cast<int32_t>(id.as_int()));
    }
    wish.text += body.Find("text")->as_string();
    ASSERT_LE(wish.tokens.size(), wish.solo.tokens.size()) << wish.id;
    ASSERT_TRUE(std::equal(wish.tokens.begin(), wish.tokens.end(), wish.solo.tokens.begin()))
        << wish.id << ": the stream is not the solo run";
  }
  void ReadDone(Wish& wish, const Json& body) {
    const std::string finish = body.Find("finish_reason")->as_string();
    wish.text += body.Find("text")->as_string();
    wish.over = true;
    ASSERT_EQ(body.Find("seq")->as_int(), static_cast<int64_t>(wish.tokens.size()));
    if (finish == "cancelled") {
      ASSERT_TRUE(wish.cancelled);
      return;
    }
    ASSERT_EQ(finish, wish.solo.finish) << wish.id;
    ASSERT_EQ(wish.tokens, wish.solo.tokens) << wish.id;
    ASSERT_EQ(wish.text, wish.solo.text) << wish.id;
    if (wish.wants_prompt_logprobs) {
      const Json::Array& tops = body.Find("prompt_logprobs")->as_array();
      ASSERT_EQ(static_cast<int32_t>(tops.size()), wish.prompt_size);
      for (int32_t i = 1; i < wish.prompt_size; ++i) {
        ASSERT_EQ(tops[i].as_array().at(0).Find("id")->as_int(), i);
      }
    }
  }
  void ReadError(Wish& wish, const Json& body) {
    const std::string code = body.Find("code")->as_string();
    if (code == "not_found") {  // a cancel that came after the end, or a resume after it
      if (!wish.cancelled) wish.over = true;
    } else if (code == "unavailable" || code == "resource_exhausted") {
      ASSERT_TRUE(body.Find("retryable")->as_bool()) << body.Dump();
      if (code == "unavailable") {
        ASSERT_TRUE(body.Find("rank")->is_int());
        ASSERT_LT(config_.scheduler.request_losses_max, losses_) << "it outlives those";
      }
      ASSERT_LT(++wish.retries, 1000);
      wish.submitted = false;  // once more, under the same id
      wish.submit_at = clock_.NowUs() + body.Find("retry_after_ms")->as_int() * 100;
      if (wish.cancelled) wish.over = true;
    } else {
      ASSERT_EQ(code, "deadline_exceeded") << body.Dump();
      ASSERT_TRUE(wish.has_deadline) << body.Dump();
      wish.over = true;
    }
  }

  bool AllOver() const {
    return std::all_of(wishes_.begin(), wishes_.end(), [](const Wish& w) { return w.over; });
  }
  std::string Stuck() const {
    std::string out;
    for (const Wish& wish : wishes_) {
      if (!wish.over)
        out += StrCat("\n", wish.id, " has ", wish.tokens.size(), " of ", wish.solo.tokens.size(),
                      " tokens");
    }
    return out;
  }

  Dice dice_;
  ManualClock clock_;
  Logger logger_{"sim", LogLevel::kError};
  ServiceConfig config_;
  ByteTokenizer tokenizer_;
  FakeTransport transport_;
  Health health_;
  Metrics& metrics_;
  std::unique_ptr<FakeGroup> group_;
  std::unique_ptr<Frontend> frontend_;
  std::unique_ptr<PromptEncoder> encoder_;
  std::unique_ptr<Coordinator> coordinator_;
  std::vector<Wish> wishes_;
  int64_t losses_ = 0;  // of the whole run
  int64_t losses_left_ = 0;
  int64_t ready_at_ = 0;
};

int64_t FromEnvironment(const char* name, int64_t fallback) {
  const char* text = std::getenv(name);
  return text == nullptr ? fallback : std::atoll(text);
}

TEST(CoordinatorSim, EveryStreamEqualsItsSoloRun) {
  const int64_t first = FromEnvironment("ECHELON_SIM_FIRST", 1);
  const int64_t count = FromEnvironment("ECHELON_SIM_SEEDS", 2000);
  uint64_t preemptions = 0;
  uint64_t forced = 0;
  uint64_t drafted = 0;
  uint64_t accepted = 0;
  Metrics metrics("test", "fake");
  for (int64_t seed = first; seed < first + count; ++seed) {
    SCOPED_TRACE(StrCat("ECHELON_SIM_FIRST=", seed, " ECHELON_SIM_SEEDS=1"));
    Simulation simulation(seed, metrics);
    simulation.Run();
    if (HasFatalFailure() || HasNonfatalFailure()) return;
    preemptions += simulation.preemptions();
    forced += simulation.forced();
    drafted += simulation.drafted();
    accepted += simulation.accepted();
  }
  // The simulation is worth something only if it gets to the rare paths.
  if (count >= 200) {
    EXPECT_GT(preemptions, 100u);
    EXPECT_GT(forced, 100u);
    EXPECT_GT(accepted, 1000u);
    EXPECT_GT(drafted - accepted, 1000u);
  }
}

}  // namespace
}  // namespace echelon
