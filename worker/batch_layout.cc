#include "worker/batch_layout.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <unordered_set>

#include "common/strings.h"

namespace echelon {

namespace {

// The checks of one sequence's step. `known` is null where the sequence is new.
class StepChecker {
 public:
  StepChecker(const StepPlan& plan, const SequenceStep& step, const SequenceState* known,
              const PlanLimits& limits)
      : plan_(plan), step_(step), known_(known), limits_(limits) {}

  Status Check() const {
    RETURN_IF_ERROR(CheckPlace());
    RETURN_IF_ERROR(CheckPages());
    RETURN_IF_ERROR(CheckTokens());
    if (step_.first) RETURN_IF_ERROR(CheckParams());
    return {};
  }

 private:
  template <typename... Parts>
  Error Bad(const Parts&... parts) const {
    return InvalidArgument(StrCat("step ", plan_.step_id, ", sequence ", step_.id, ": ", parts...));
  }

  Status CheckPlace() const {
    if (step_.first && known_ != nullptr) return Bad("is called new but is known");
    if (!step_.first && known_ == nullptr) return Bad("is not known to this worker");
    const int32_t length = known_ ? known_->length : 0;
    const int32_t certain = length - (known_ ? known_->drafts : 0);
    if (step_.start_position < certain || step_.start_position > length) {
      return Bad("starts at position ", step_.start_position, ", ", length,
                 " have been run, the last ", length - certain, " as drafts");
    }
    if (step_.tokens.empty()) return Bad("has no tokens");
    const int64_t end = step_.start_position + static_cast<int64_t>(step_.tokens.size());
    if (end > limits_.context_max) {
      return Bad("would reach ", end, " positions; the limit is ", limits_.context_max);
    }
    return CheckDrafts();
  }

  Status CheckDrafts() const {
    if (step_.drafts == 0) return {};
    if (step_.drafts < 0 || step_.tokens.size() != 1 + static_cast<size_t>(step_.drafts)) {
      return Bad(step_.drafts, " of ", step_.tokens.size(),
                 " tokens are drafts; they follow exactly one that is not");
    }
    if (!step_.sample) return Bad("has drafts but samples nothing");
    if (known_ ? known_->penalised : step_.params.penalised()) {
      return Bad("has drafts and penalties, which count tokens that could be taken back");
    }
    return {};
  }

  Status CheckPages() const {
    for (const int32_t page : step_.new_pages) {
      if (page < 0 || page >= limits_.pages) {
        return Bad("page ", page, " of a cache of ", limits_.pages);
      }
    }
    RETURN_IF_ERROR(CheckKeepers());
    const size_t pages = (known_ ? known_->pages.size() : 0) + step_.new_pages.size();
    const auto end = static_cast<size_t>(step_.start_position) + step_.tokens.size();
    if (pages * static_cast<size_t>(limits_.page_tokens) < end) {
      return Bad(pages, " pages of ", limits_.page_tokens, " tokens do not hold ", end,
                 " positions");
    }
    return {};
  }

  // The pages of a sequence lie on the sp ranks in turn.
  Status CheckKeepers() const {
    if (step_.new_pages.empty()) return {};
    const int32_t per_rank = limits_.pages / limits_.sp;
    const bool begins = known_ == nullptr || known_->pages.empty();
    const int32_t first = (begins ? step_.new_pages : known_->pages)[0] / per_rank;
    size_t index = begins ? 0 : known_->pages.size();
    for (const int32_t page : step_.new_pages) {
      const auto keeper = static_cast<int32_t>((first + index++) % limits_.sp);
      if (page / per_rank != keeper) {
        return Bad("page ", page, " does not lie on sp rank ", keeper, ", whose turn it is");
      }
    }
    return {};
  }

  Status CheckTokens() const {
    for (size_t i = 0; i < step_.tokens.size(); ++i) {
      const int32_t token = step_.tokens[i];
      if (token == kTokenFromLastStep) {
        if (i > 0 || known_ == nullptr || !known_->sampled) {
          return Bad("wants a sampled token at position ", step_.start_position + i,
                     ", but the step before sampled none");
        }
      } else if (token < 0 || token >= limits_.vocab_size) {
        return Bad("token ", token, " of a vocabulary of ", limits_.vocab_size);
      }
    }
    return {};
  }

  Status CheckParams() const {
    const SamplingParams& p = step_.params;
    const auto finite_from = [&](const char* field, float value, float least) -> Status {
      if (std::isfinite(value) && value >= least) return {};
      return Bad(field, " = ", value, "; allowed are finite values from ", least);
    };
    constexpr float kAny = -1e30f;
    RETURN_IF_ERROR(finite_from("temperature", p.temperature, 0.0f));
    RETURN_IF_ERROR(finite_from("top_p", p.top_p, 0.0f));
    RETURN_IF_ERROR(finite_from("min_p", p.min_p, 0.0f));
    RETURN_IF_ERROR(finite_from("repetition_penalty", p.repetition_penalty, kRepetitionPenaltyMin));
    RETURN_IF_ERROR(finite_from("presence_penalty", p.presence_penalty, kAny));
    RETURN_IF_ERROR(finite_from("frequency_penalty", p.frequency_penalty, kAny));
    for (const auto& [id, bias] : p.logit_bias) {
      if (id < 0 || id >= limits_.vocab_size) {
        return Bad("logit_bias for token ", id, " of a vocabulary of ", limits_.vocab_size);
      }
      RETURN_IF_ERROR(finite_from("logit_bias", bias, kAny));
    }
    for (const int32_t logprobs : {p.logprobs, p.prompt_logprobs}) {
      if (logprobs < -1 || logprobs > kLogprobsMax) {
        return Bad("logprobs = ", logprobs, "; allowed are -1 to ", kLogprobsMax);
      }
    }
    if (p.top_k < 0) return Bad("top_k = ", p.top_k, "; allowed are 0 (off) and above");
    if (step_.prompt_tokens < 1) {
      return Bad("prompt_tokens = ", step_.prompt_tokens, "; a prompt has at least one");
    }
    return {};
  }

  const StepPlan& plan_;
  const SequenceStep& step_;
  const SequenceState* known_;
  const PlanLimits& limits_;
};

}  // namespace

Status CheckPlan(const StepPlan& plan, const SequenceTable& table, const PlanLimits& limits) {
  std::unordered_set<SequenceId> released;
  for (const SequenceId id : plan.released) {
    if (table.count(id) == 0 || !released.insert(id).second) {
      return InvalidArgument(StrCat("step ", plan.step_id, ": releases sequence ", id,
                                    ", which is not known to this worker"));
    }
  }
  std::unordered_set<SequenceId> stepped;
  size_t rows = 0;
  size_t known_after = table.size() - released.size();
  for (const SequenceStep& step : plan.sequences) {
    if (!stepped.insert(step.id).second) {
      return InvalidArgument(
          StrCat("step ", plan.step_id, ", sequence ", step.id, ": appears twice"));
    }
    const auto it = table.find(step.id);
    const bool known = it != table.end() && released.count(step.id) == 0;
    RETURN_IF_ERROR(StepChecker(plan, step, known ? &it->second : nullptr, limits).Check());
    rows += step.tokens.size();
    if (!known) ++known_after;
  }
  if (rows > static_cast<size_t>(limits.step_tokens_max)) {
    return InvalidArgument(StrCat("step ", plan.step_id, ": ", rows, " tokens; the limit is ",
                                  limits.step_tokens_max));
  }
  if (known_after > static_cast<size_t>(limits.sequences_max)) {
    return InvalidArgument(StrCat("step ", plan.step_id, ": ", known_after,
                                  " sequences at once; the limit is ", limits.sequences_max));
  }
  return {};
}

void ApplyPlan(const StepPlan& plan, SequenceTable& table) {
  for (const SequenceId id : plan.released) table.erase(id);
  for (const SequenceStep& step : plan.sequences) {
    SequenceState& state = table[step.id];
    state.pages.insert(state.pages.end(), step.new_pages.begin(), step.new_pages.end());
    state.length = step.start_position + static_cast<int32_t>(step.tokens.size());
    state.drafts = step.drafts;
    state.sampled = step.sample && step.drafts == 0;
    if (step.first) state.penalised = step.params.penalised();
  }
}

StepRows BatchLayout::step_rows(int64_t begin, int64_t end) const {
  const auto part = [&](const std::vector<int32_t>& all) {
    return std::span(all).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  };
  return {part(ids), {part(positions), part(sequences), page_begin, pages}};
}

BatchLayout MakeBatch(const StepPlan& plan, const SequenceTable& table, int page_tokens) {
  BatchLayout batch;
  batch.page_begin.push_back(0);
  for (const SequenceStep& step : plan.sequences) {
    const SequenceState& state = table.at(step.id);
    const int begin = static_cast<int>(batch.ids.size());
    for (size_t i = 0; i < step.tokens.size(); ++i) {
      batch.ids.push_back(step.tokens[i]);
      batch.positions.push_back(step.start_position + static_cast<int32_t>(i));
      batch.sequences.push_back(static_cast<int32_t>(batch.steps.size()));
    }
    const int used = (state.length + page_tokens - 1) / page_tokens;
    batch.pages.insert(batch.pages.end(), state.pages.begin(), state.pages.begin() + used);
    batch.page_begin.push_back(static_cast<int32_t>(batch.pages.size()));
    batch.steps.push_back({step.id, begin, static_cast<int>(batch.ids.size())});
  }
  return batch;
}

BatchLayout CutBatch(const BatchLayout& batch, int64_t begin, int64_t end) {
  BatchLayout cut;
  cut.page_begin.push_back(0);
  for (size_t s = 0; s < batch.steps.size(); ++s) {
    const SequenceRows& all = batch.steps[s];
    const auto from = std::max<int64_t>(all.begin, begin), to = std::min<int64_t>(all.end, end);
    if (from >= to) continue;
    for (int64_t t = from; t < to; ++t) {
      cut.ids.push_back(batch.ids[t]);
      cut.positions.push_back(batch.positions[t]);
      cut.sequences.push_back(static_cast<int32_t>(cut.steps.size()));
    }
    cut.pages.insert(cut.pages.end(), batch.pages.begin() + batch.page_begin[s],
                     batch.pages.begin() + batch.page_begin[s + 1]);
    cut.page_begin.push_back(static_cast<int32_t>(cut.pages.size()));
    cut.steps.push_back({all.id, static_cast<int>(from - begin), static_cast<int>(to - begin)});
  }
  return cut;
}

void FillUp(BatchLayout& batch, int64_t rows) {
  if (batch.rows() == 0 || batch.rows() >= rows) return;
  const auto sequence = static_cast<int32_t>(batch.page_begin.size()) - 1;
  batch.pages.push_back(-1);
  batch.page_begin.push_back(static_cast<int32_t>(batch.pages.size()));
  batch.ids.resize(static_cast<size_t>(rows), 0);
  batch.positions.resize(static_cast<size_t>(rows), 0);
  batch.sequences.resize(static_cast<size_t>(rows), sequence);
}

}  // namespace echelon
