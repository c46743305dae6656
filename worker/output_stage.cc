#include "worker/output_stage.h"

#include <algorithm>

#include "common/check.h"

namespace echelon {

namespace {

// How a backend draws from one rank's part of a vocabulary, by messages in its own stream.
VocabPart PartOfVocab(const RankPart& part, Communicator& tp) {
  VocabPart of;
  of.rank = tp.rank();
  of.ranks = tp.size();
  of.begin = static_cast<int32_t>(part.shard.vocab.begin);
  of.cols_max = part.vocab_max;
  of.gather = [&tp](void* all, size_t bytes) {
    const std::byte* own = static_cast<std::byte*>(all) + static_cast<size_t>(tp.rank()) * bytes;
    tp.Wait(tp.AllGather(own, all, bytes));
  };
  return of;
}

}  // namespace

OutputStage::OutputStage(const RankPart& part, Backend& backend, Decoder& decoder, Communicator& tp,
                         Communicator& exchange)
    : backend_(backend),
      decoder_(decoder),
      tp_(tp),
      sampler_(part.shard.vocab, exchange),
      part_(PartOfVocab(part, tp)),
      backend_draws_(!backend.host_memory() && (tp.size() == 1 || tp.on_stream())) {}

void OutputStage::Begin(const StepPlan& plan, const BatchLayout& batch) {
  for (const SequenceId id : plan.released) sampler_.Forget(id);
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const SequenceStep& step = plan.sequences[s];
    if (step.first) sampler_.Start(step.id, step.params, step.prompt_tokens);
    SamplingState& state = sampler_.StateOf(step.id);
    for (int row = batch.steps[s].begin; row < batch.steps[s].end; ++row) {
      state.Observe(batch.positions[row], batch.ids[row]);
    }
  }
}

void OutputStage::AddWanted(const SequenceStep& step, int sequence, const BatchLayout& batch,
                            std::vector<Wanted>& wanted) {
  const SamplingState& state = sampler_.StateOf(step.id);
  const SequenceRows rows = batch.steps[sequence];
  const int32_t end = step.start_position + (rows.end - rows.begin);
  if (state.params().prompt_logprobs >= 0) {
    // The token at each prompt position but 0 is scored by the row before it.
    const int32_t scored_end = std::min(end, state.prompt_tokens());
    for (int32_t p = std::max(step.start_position, 1); p < scored_end; ++p) {
      const int row = rows.begin + (p - step.start_position);
      const bool held = p == step.start_position;
      wanted.push_back({sequence, held ? -1 : row - 1, p - 1, batch.ids[row], false, false});
    }
    if (end < state.prompt_tokens()) {
      wanted.push_back({sequence, rows.end - 1, end - 1, -1, false, true});
    }
  }
  if (!step.sample) return;
  for (int back = step.drafts; back >= 0; --back) {
    wanted.push_back({sequence, rows.end - 1 - back, end - 1 - back, -1, true, false});
  }
}

// A draw behind a draft counts if all draws so far were what the drafts said.
void OutputStage::AddAnswer(const Wanted& wanted, const SequenceStep& step,
                            const BatchLayout& batch, SampledToken answer, SequenceResult& result) {
  if (!wanted.sample) {
    result.prompt_top.push_back(std::move(answer.top));
    return;
  }
  const int first = batch.steps[wanted.sequence].end - 1 - step.drafts;
  const bool guesses_hold =
      static_cast<int>(result.sampled.size()) == wanted.row - first &&
      (result.sampled.empty() || result.sampled.back().token == batch.ids[wanted.row]);
  if (guesses_hold) result.sampled.push_back(std::move(answer));
}

Result<std::vector<SequenceResult>> OutputStage::Finish(const StepPlan& plan,
                                                        const BatchLayout& batch) {
  std::vector<SequenceResult> results(plan.sequences.size());
  std::vector<Wanted> wanted;
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    results[s].id = plan.sequences[s].id;
    AddWanted(plan.sequences[s], static_cast<int>(s), batch, wanted);
  }
  const std::span<const Wanted> all(wanted);
  const auto rows_max = static_cast<size_t>(decoder_.logit_rows_max());
  for (size_t at = 0; at < all.size(); at += rows_max) {
    RETURN_IF_ERROR(
        RunTile(all.subspan(at, std::min(rows_max, all.size() - at)), plan, batch, results));
  }
  return results;
}

bool OutputStage::BackendDraws(const StepPlan& plan) {
  if (!backend_draws_) return false;
  int64_t rows = 0;
  for (const SequenceStep& step : plan.sequences) {
    const SamplingState* known = step.first ? nullptr : &sampler_.StateOf(step.id);
    const SamplingParams& params = known ? known->params() : step.params;
    const int32_t prompt_tokens = known ? known->prompt_tokens() : step.prompt_tokens;
    if (params.prompt_logprobs >= 0 && step.start_position < prompt_tokens) {
      // What a chunk leaves to the next the host keeps.
      const auto tokens = static_cast<int32_t>(step.tokens.size());
      const bool whole = step.start_position == 0 && tokens >= prompt_tokens;
      if (!whole || params.prompt_logprobs > kDrawnBestMax) return false;
      rows += prompt_tokens - 1;
    }
    if (!step.sample) continue;
    // At most: each token of the step may be one more to count.
    const size_t changes = (known ? known->changes() : params.logit_bias.size()) +
                           (params.penalised() ? step.tokens.size() : 0);
    if (!sampler_.BackendMayDraw(params, changes)) return false;
    rows += step.drafts + 1;
  }
  return rows <= decoder_.logit_rows_max();
}

OutputStage::Draws OutputStage::Enqueue(const StepPlan& plan, const BatchLayout& batch) {
  Draws draws;
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    AddWanted(plan.sequences[s], static_cast<int>(s), batch, draws.wanted);
  }
  std::vector<int32_t> rows;
  for (const Wanted& wanted : draws.wanted) {
    const SequenceId id = plan.sequences[wanted.sequence].id;
    const auto row = static_cast<int32_t>(rows.size());
    CHECK(AddToBatch(wanted, id, row, draws.asked));
    rows.push_back(wanted.row);
    if (!wanted.sample) continue;
    // Of several the step behind needs the last that was right, which the host knows.
    if (plan.sequences[wanted.sequence].drafts == 0) draws.last_row[id] = row;
  }
  if (!rows.empty()) Compute(rows, draws.asked);
  return draws;
}

std::vector<SequenceResult> OutputStage::Collect(const StepPlan& plan, const BatchLayout& batch,
                                                 const Draws& draws) {
  std::vector<SequenceResult> results(plan.sequences.size());
  for (size_t s = 0; s < results.size(); ++s) results[s].id = plan.sequences[s].id;
  for (size_t i = 0; i < draws.wanted.size(); ++i) {
    const Wanted& wanted = draws.wanted[i];
    AddAnswer(wanted, plan.sequences[wanted.sequence], batch, draws.asked.AnswerOf(i),
              results[wanted.sequence]);
  }
  for (const SequenceResult& result : results) {
    if (!result.sampled.empty()) sampler_.SetDrawn(result.id, result.sampled.back().token);
  }
  return results;
}

bool OutputStage::AddToBatch(const Wanted& wanted, SequenceId id, int32_t row, DrawBatch& draws) {
  return wanted.sample ? sampler_.AddDraw(id, wanted.position, row, draws)
                       : sampler_.AddScore(id, wanted.known_next, row, draws);
}

Tensor OutputStage::Compute(std::span<const int32_t> rows, DrawBatch& draws) {
  Tensor logits;
  const bool alone = tp_.size() == 1;
  const auto ops = [&] {
    if (backend_draws_ && !alone) tp_.Restart();
    logits = decoder_.Logits(rows);
    if (!draws.rows.empty()) backend_.DrawTokens(draws.Ask(logits, alone ? nullptr : &part_));
  };
  // Messages of sp ranks are others each time; those of a draw repeat.
  if (decoder_.sharing()) {
    ops();
  } else {
    backend_.Repeat(static_cast<int64_t>(rows.size()), ops);
  }
  return logits;
}

std::span<const float> OutputStage::Fetch(std::span<const int32_t> rows,
                                          std::span<const Wanted> tile, const StepPlan& plan,
                                          std::vector<SampledToken>& drawn) {
  drawn.assign(rows.size(), {});
  DrawBatch draws;
  std::vector<size_t> fetched;  // the rows that the host draws from or keeps
  size_t row = 0;
  for (const Wanted& w : tile) {
    if (w.row < 0) continue;
    const bool by_backend =
        backend_draws_ && !w.hold &&
        AddToBatch(w, plan.sequences[w.sequence].id, static_cast<int32_t>(row), draws);
    if (!by_backend) fetched.push_back(row);
    ++row;
  }
  const Tensor logits = Compute(rows, draws);
  const auto vocab = static_cast<size_t>(logits.cols);
  if (backend_.host_memory()) return {logits.data, rows.size() * vocab};
  logits_.resize(rows.size() * vocab);
  for (const size_t r : fetched) {
    backend_.Download(logits.row(static_cast<int64_t>(r)), &logits_[r * vocab],
                      vocab * sizeof(float));
  }
  backend_.Synchronize();
  for (size_t i = 0; i < draws.rows.size(); ++i) drawn[draws.rows[i].row] = draws.AnswerOf(i);
  return logits_;
}

Status OutputStage::RunTile(std::span<const Wanted> tile, const StepPlan& plan,
                            const BatchLayout& batch, std::vector<SequenceResult>& results) {
  std::vector<int32_t> rows;
  for (const Wanted& w : tile) {
    if (w.row >= 0) rows.push_back(w.row);
  }
  size_t vocab = 0;
  std::span<const float> of_tile;
  std::vector<SampledToken> drawn;
  if (!rows.empty()) {
    of_tile = Fetch(rows, tile, plan, drawn);
    // Before other ranks are told of these logits. What lies in a host's memory stays right.
    if (!backend_.host_memory()) RETURN_IF_ERROR(backend_.Health());
    vocab = of_tile.size() / rows.size();
  }
  std::vector<SampleRow> asked;
  std::vector<const Wanted*> asked_for;
  std::vector<std::pair<SequenceId, std::span<const float>>> held;
  size_t next = 0;
  for (const Wanted& w : tile) {
    const SequenceId id = plan.sequences[w.sequence].id;
    std::span<const float> logits = sampler_.StateOf(id).held_logits;
    const SampledToken* by_backend = nullptr;
    if (w.row >= 0) {
      logits = of_tile.subspan(vocab * next, vocab);
      if (drawn[next].token >= 0) by_backend = &drawn[next];
      ++next;
    }
    if (w.hold) {
      held.emplace_back(id, logits);
    } else {
      asked.push_back({id, logits, w.position, w.known_next, by_backend});
      asked_for.push_back(&w);
    }
  }
  std::vector<SampledToken> answers = sampler_.Run(asked);
  for (size_t i = 0; i < answers.size(); ++i) {
    const Wanted& w = *asked_for[i];
    AddAnswer(w, plan.sequences[w.sequence], batch, std::move(answers[i]), results[w.sequence]);
  }
  for (const auto& [id, logits] : held) {
    sampler_.StateOf(id).held_logits.assign(logits.begin(), logits.end());
  }
  return {};
}

}  // namespace echelon
