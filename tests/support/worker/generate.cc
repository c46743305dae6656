#include "tests/support/worker/generate.h"

#include <algorithm>
#include <deque>
#include <random>

#include "common/check.h"
#include "common/random.h"

namespace echelon::testing {

namespace {

struct Running {
  const Wish* wish = nullptr;
  Answer* answer = nullptr;
  SequenceId id = 0;
  std::vector<int32_t> known;  // prompt and forced tokens
  int32_t length = 0;          // positions planned
  int asked = 0;               // tokens asked for
  bool ended = false;          // by eos or max_tokens: no further plans
  bool started = false;
  std::vector<int32_t> pages;
};

class Driver {
 public:
  Driver(PlanRunner& runner, int page_tokens, const Pace& pace)
      : runner_(runner), page_tokens_(page_tokens), pace_(pace) {
    const int per_rank = runner.pages() / runner.sp();
    for (int rank = 0; rank < runner.sp(); ++rank) {
      std::vector<int32_t>& pages = free_pages_.emplace_back();
      for (int page = per_rank - 1; page >= 0; --page) pages.push_back(rank * per_rank + page);
      if (pace.page_seed == 0) continue;
      std::shuffle(pages.begin(), pages.end(), std::mt19937_64(pace.page_seed));
    }
  }

  std::vector<Answer> Run(const std::vector<Wish>& wishes) {
    std::vector<Answer> answers(wishes.size());
    for (size_t i = 0; i < wishes.size(); ++i) {
      Running r;
      r.wish = &wishes[i];
      r.answer = &answers[i];
      r.id = 1000 + i;
      r.known = wishes[i].prompt;
      r.known.insert(r.known.end(), wishes[i].forced.begin(), wishes[i].forced.end());
      running_.push_back(std::move(r));
    }
    while (!AllEnded()) {
      Post();
      while (in_flight_.size() > static_cast<size_t>(pace_.plans_ahead)) Take();
    }
    while (!in_flight_.empty()) Take();
    StepPlan last;
    last.step_id = step_;
    for (const Running& r : running_) last.released.push_back(r.id);
    TakeOk(last);
    return answers;
  }

 private:
  bool AllEnded() const {
    return std::all_of(running_.begin(), running_.end(), [](const Running& r) { return r.ended; });
  }

  void Post() {
    StepPlan plan;
    plan.step_id = step_;
    for (size_t i = 0; i < running_.size(); ++i) {
      Running& r = running_[i];
      const bool due =
          static_cast<int>(step_ % pace_.alternate) == static_cast<int>(i % pace_.alternate);
      if (r.ended || !due || r.asked == r.wish->max_tokens) continue;
      if (static_cast<int>(step_) < r.wish->begin_step) continue;
      plan.sequences.push_back(NextStep(r));
    }
    ++step_;
    runner_.Post(plan);
    in_flight_.push_back(std::move(plan));
  }

  SequenceStep NextStep(Running& r) {
    SequenceStep step;
    step.id = r.id;
    step.start_position = r.length;
    step.first = !r.started;
    if (step.first) {
      step.params = r.wish->params;
      step.prompt_tokens = static_cast<int32_t>(r.wish->prompt.size());
      r.started = true;
    }
    const auto known = static_cast<int32_t>(r.known.size());
    if (r.length < known) {
      const int32_t end = std::min(known, r.length + pace_.chunk);
      step.tokens.assign(r.known.begin() + r.length, r.known.begin() + end);
    } else if (pace_.drafts > 0) {
      step.tokens = Drafts(r);
      step.drafts = static_cast<int32_t>(step.tokens.size()) - 1;
    } else {
      step.tokens = {kTokenFromLastStep};
    }
    r.length += static_cast<int32_t>(step.tokens.size());
    step.sample = r.length >= known;
    if (step.sample) r.asked += 1 + step.drafts;
    while (static_cast<int64_t>(r.pages.size()) * page_tokens_ < r.length) {
      // The sp ranks in turn; the wishes begin on different ones.
      std::vector<int32_t>& pages = free_pages_[(r.id + r.pages.size()) % free_pages_.size()];
      CHECK_MSG(!pages.empty(), "the test needs more KV pages");
      step.new_pages.push_back(pages.back());
      r.pages.push_back(pages.back());
      pages.pop_back();
    }
    return step;
  }

  // The sequence's last token and guesses of those that follow.
  std::vector<int32_t> Drafts(const Running& r) const {
    CHECK(pace_.plans_ahead == 0 && r.asked == static_cast<int>(r.answer->tokens.size()));
    std::vector<int32_t> tokens = {r.answer->tokens.back()};
    const std::vector<int32_t>& truth = (*pace_.guess)[r.id - 1000].tokens;
    const auto random = [&](size_t at) {
      return Philox(pace_.draft_seed, {uint32_t(r.id), uint32_t(at), uint32_t(r.asked), 0})[0];
    };
    const size_t most = std::min<size_t>(r.wish->max_tokens - r.asked - 1,
                                         random(truth.size()) % (pace_.drafts + 1));
    for (size_t at = r.asked; tokens.size() <= most; ++at) {
      const int32_t right = at < truth.size() ? truth[at] : 0;
      tokens.push_back(random(at) % 4 == 0 ? (right + 1) % 100 : right);
    }
    return tokens;
  }

  void Take() {
    const StepPlan plan = std::move(in_flight_.front());
    in_flight_.pop_front();
    const Result<StepResult> result = runner_.Take();
    CHECK_MSG(result.ok(), result.ok() ? "" : result.error().message);
    CHECK(result->sequences.size() == plan.sequences.size());
    for (const SequenceResult& s : result->sequences) Keep(s);
  }

  void TakeOk(const StepPlan& plan) {
    runner_.Post(plan);
    const Result<StepResult> result = runner_.Take();
    CHECK_MSG(result.ok(), result.ok() ? "" : result.error().message);
  }

  void Keep(const SequenceResult& s) {
    Running& r = running_[s.id - 1000];
    Answer& answer = *r.answer;
    answer.prompt_top.insert(answer.prompt_top.end(), s.prompt_top.begin(), s.prompt_top.end());
    for (const SampledToken& sampled : s.sampled) {
      if (r.ended) return;  // past the end: discarded
      answer.tokens.push_back(sampled.token);
      answer.logits.push_back(sampled.logit);
      if (r.wish->params.logprobs >= 0) answer.top.push_back(sampled.top);
      r.ended = sampled.token == r.wish->eos ||
                static_cast<int>(answer.tokens.size()) == r.wish->max_tokens;
    }
    if (pace_.drafts == 0 || s.sampled.empty()) return;
    // Back behind the last draft that was right.
    r.asked = static_cast<int>(answer.tokens.size());
    r.length = static_cast<int32_t>(r.known.size()) + r.asked - 1;
  }

  PlanRunner& runner_;
  const int page_tokens_;
  const Pace pace_;
  std::vector<Running> running_;
  std::deque<StepPlan> in_flight_;
  std::vector<std::vector<int32_t>> free_pages_;  // by sp rank
  uint64_t step_ = 0;
};

}  // namespace

std::vector<Answer> Generate(PlanRunner& runner, const std::vector<Wish>& wishes, int page_tokens,
                             const Pace& pace) {
  return Driver(runner, page_tokens, pace).Run(wishes);
}

}  // namespace echelon::testing
