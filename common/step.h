#pragma once
// StepPlan and StepResult: all that coordinator and workers say to each other about computing.
// A plan holds deltas only; the worker keeps what it was told before (pages, parameters, counts).

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/result.h"

namespace echelon {

using SequenceId = uint64_t;

// Stands for "the token that the previous step sampled for this sequence", so that a plan can leave
// before the result of the one before it is back.
inline constexpr int32_t kTokenFromLastStep = -1;

// Least repetition penalty: logits are divided by it, and none below 1e32 then overflows.
inline constexpr float kRepetitionPenaltyMin = 1e-6f;

struct SamplingParams {
  float temperature = 1.0f;         // 0 = greedy: exact argmax, ties to the lower id
  int32_t top_k = 0;                // 0 = off
  float top_p = 1.0f;               // 1 = off
  float min_p = 0.0f;               // 0 = off
  float repetition_penalty = 1.0f;  // over prompt and generated tokens
  float presence_penalty = 0.0f;    // over generated tokens
  float frequency_penalty = 0.0f;   // over generated tokens
  std::vector<std::pair<int32_t, float>> logit_bias;  // token id, added to its logit
  uint64_t seed = 0;
  int32_t logprobs = -1;         // -1 = none; K = the K best of every step and the chosen token
  int32_t prompt_logprobs = -1;  // the same for each prompt position but the first
  // What is drawn depends on the tokens that were run, not only on the logits.
  bool penalised() const {
    return repetition_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f;
  }
  // A token is drawn from other logits than the model's.
  bool adjusts() const { return penalised() || !logit_bias.empty(); }
  bool operator==(const SamplingParams&) const = default;
};

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0.0f;  // natural log, of the model itself: before temperature, penalties, masks
  bool operator==(const TokenLogprob&) const = default;
};

struct SequenceStep {
  SequenceId id = 0;
  int32_t start_position = 0;      // absolute position of tokens[0]
  std::vector<int32_t> tokens;     // to run through the model; decode: one, kTokenFromLastStep
  std::vector<int32_t> new_pages;  // KV pages appended to the sequence's table before the step
  bool sample = false;             // the last row yields the next token
  // The last `drafts` tokens are guesses of what the rows before them yield; needs `sample`, and
  // one token before them. Each row from there on is drawn from; guesses are kept as far as they
  // are what was drawn, and the next step starts behind the last one kept (its keys and values
  // overwrite those of the rest). Not for sequences with penalties, whose counts know no way back.
  int32_t drafts = 0;
  // Set once, when the sequence first appears (or again after preemption): start_position is 0.
  bool first = false;
  SamplingParams params;      // first only
  int32_t prompt_tokens = 0;  // first only: positions below are prompt, from here generated
  bool operator==(const SequenceStep&) const = default;
};

struct StepPlan {
  uint64_t step_id = 0;              // ascending by one within an epoch
  uint64_t epoch = 0;                // of the worker group; older frames are dropped
  std::vector<SequenceId> released;  // forget these sequences before the step (done, preempted)
  std::vector<SequenceStep> sequences;
  bool operator==(const StepPlan&) const = default;
};

struct SampledToken {
  int32_t token = -1;
  float logit = 0.0f;             // its raw logit: the proof of bit-exact replay
  std::vector<TokenLogprob> top;  // params.logprobs
  bool operator==(const SampledToken&) const = default;
};

struct SequenceResult {
  SequenceId id = 0;
  // Empty where the plan asked for none; else the drafts that were right and one more token.
  std::vector<SampledToken> sampled;
  // params.prompt_logprobs: one entry per prompt token of this chunk but the prompt's first, in
  // their order. (The entry for the first token of a later chunk was computed by the chunk before;
  // only now is it known which token stands there.)
  std::vector<std::vector<TokenLogprob>> prompt_top;
  bool operator==(const SequenceResult&) const = default;
};

struct RankTiming {
  int32_t rank = 0;
  float compute_seconds = 0.0f;
  float comm_hidden_seconds = 0.0f;   // in flight (posted to arrived) while this rank computed
  float comm_exposed_seconds = 0.0f;  // this rank waited
  // sp > 1: attentions (one sequence in one layer) for which this rank passed queries, or keys and
  // values.
  uint32_t queries_passed = 0;
  uint32_t keys_passed = 0;
  bool operator==(const RankTiming&) const = default;
};

struct StepResult {
  uint64_t step_id = 0;
  uint64_t epoch = 0;
  std::vector<SequenceResult> sequences;  // one per SequenceStep, in the plan's order
  std::vector<RankTiming> timings;        // the ranks whose timings arrived with this step
  bool operator==(const StepResult&) const = default;
};

// Little-endian, length-checked; `Decode*` refuses anything that is not exactly one message.
struct StepLimits {
  uint32_t sequences_max = 4096;
  uint32_t tokens_max = 1 << 20;  // of one plan, all sequences together
  uint32_t pages_max = 1 << 20;
};
std::string EncodePlan(const StepPlan& plan);
Result<StepPlan> DecodePlan(std::string_view bytes, const StepLimits& limits = {});
std::string EncodeResult(const StepResult& result);
Result<StepResult> DecodeResult(std::string_view bytes, const StepLimits& limits = {});

}  // namespace echelon
