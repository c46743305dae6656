#pragma once
// Sampler: logits to tokens and log-probabilities, over a vocabulary spread over the tp ranks of
// the last stage. Ranks exchange maxima, histograms and candidates, never logits, and every rank
// ends with the same answer. One thread; collective: all ranks pass the same rows in the same
// order.
//
// The order of operations is vLLM's and Hugging Face's: logit_bias, repetition penalty, frequency
// and presence penalties, temperature, top_k, top_p over what top_k left, min_p. Ties at a
// threshold all stay in. Greedy is the exact argmax of the adjusted logits, ties to the lower id.
// Log-probabilities are the model's own: of the logits before any of that.

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/parallel_layout.h"
#include "common/step.h"
#include "kernels/backend.h"
#include "worker/draw_batch.h"
#include "worker/sampling_state.h"
#include "worker/vocab_exchange.h"

namespace echelon {

// One row of logits and what is wanted of it.
struct SampleRow {
  SequenceId id = 0;
  std::span<const float> logits;  // this rank's part of the vocabulary
  int32_t position = 0;           // of the row: the token drawn stands at position + 1
  // -1: draw the next token. Otherwise the prompt token that follows is known: score it only.
  int32_t known_next = -1;
  const SampledToken* drawn = nullptr;  // or scored, by the backend: the logits are not read
};

class Sampler {
 public:
  // `vocab`: this rank's part. The communicator (host memory) outlives the sampler.
  Sampler(Range vocab, Communicator& tp) : vocab_(vocab), exchange_(tp) {}

  void Start(SequenceId id, const SamplingParams& params, int32_t prompt_tokens);
  void Forget(SequenceId id) { states_.erase(id); }
  // The sequence must have been started.
  SamplingState& StateOf(SequenceId id);

  // Whether a backend may draw such a sequence's tokens by itself, from at most so many changed
  // logits: not where lists are above its limits.
  bool BackendMayDraw(const SamplingParams& params, size_t changes) const;
  // Adds how it does, from `row` of its logits; false where it may not.
  bool AddDraw(SequenceId id, int32_t position, int32_t row, DrawBatch& draws);
  // The same of a prompt's token that is known, for its log-probabilities.
  bool AddScore(SequenceId id, int32_t known, int32_t row, DrawBatch& draws);
  // What an ahead step's Observe called by a DrawnId; of a sequence that may have been forgotten.
  void SetDrawn(SequenceId id, int32_t token);

  // Of each row the token drawn, or the known one.
  std::vector<SampledToken> Run(std::span<const SampleRow> rows);

 private:
  // A row whose token is to be drawn, and what the phases of Run learn about it.
  struct Draw {
    const SampleRow* row = nullptr;
    const SamplingState* state = nullptr;
    std::vector<float> adjusted;    // a copy of the logits, only where adjusting changes any
    std::span<const float> logits;  // adjusted, or the row's own
    float max = 0.0f;               // of `logits`, over all ranks
    uint32_t key_min = 0;           // of what top_k and top_p leave
    SampledToken* result = nullptr;
  };
  // This rank's best token of a row by some score; id -1 where it has none.
  struct Winner {
    double score = 0.0;
    int32_t id = -1;
    float raw_logit = 0.0f;
  };

  Draw Prepare(const SampleRow& row, SampledToken& result);
  Winner WinnerOf(const Draw& draw, double score, int32_t id) const;
  void TakeArgmax(std::vector<Draw>& draws);
  void FindNuclei(std::vector<Draw>& draws);
  void TakeGumbelMax(std::vector<Draw>& draws);
  // Writes the ranks' best winner of each draw to its result; returns its score.
  std::vector<double> Settle(const std::vector<Winner>& mine, std::vector<Draw>& draws);
  void AddLogprobs(std::span<const SampleRow> rows, std::vector<SampledToken>& results);

  const Range vocab_;
  VocabExchange exchange_;
  std::unordered_map<SequenceId, SamplingState> states_;
};

}  // namespace echelon
