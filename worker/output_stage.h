#pragma once
// OutputStage: the end of a step on the last pipeline stage. Chooses the rows whose logits are
// needed (the last row of a sequence that samples, with those before its drafts, prompt rows that
// are scored), makes their logits some rows at a time, and turns them into the step's results. One
// thread; collective over tp.

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "common/result.h"
#include "common/step.h"
#include "kernels/backend.h"
#include "worker/batch_layout.h"
#include "worker/decoder.h"
#include "worker/draw_batch.h"
#include "worker/sampler.h"

namespace echelon {

class OutputStage {
 public:
  // All outlive this object. The last stage's tp ranks: `tp` in the backend's memory, `exchange` in
  // the host's.
  OutputStage(const RankPart& part, Backend& backend, Decoder& decoder, Communicator& tp,
              Communicator& exchange);

  // Before the step: forgets and starts sequences, counts the tokens of the batch (resolved ids).
  void Begin(const StepPlan& plan, const BatchLayout& batch);
  // After the decoder's Forward: one result per sequence of the plan, in its order. An error is the
  // device's: the other ranks have been told nothing of what its memory holds.
  Result<std::vector<SequenceResult>> Finish(const StepPlan& plan, const BatchLayout& batch);

  // What is wanted of one row's logits.
  struct Wanted {
    int sequence = 0;  // index into the plan
    int row = -1;      // of the batch; -1: the logits held since the last chunk
    int32_t position = 0;
    int32_t known_next = -1;  // score this prompt token
    bool sample = false;
    bool hold = false;  // the token that follows comes with the next chunk
  };
  // A step whose every token the backend draws or scores.
  struct Draws {
    std::vector<Wanted> wanted;
    DrawBatch asked;                                   // of each
    std::unordered_map<SequenceId, int32_t> last_row;  // of each sequence that samples
    // The place in `asked` of the sequence's next token, or null where it does not sample.
    const int32_t* RowOf(SequenceId id) const {
      const auto it = last_row.find(id);
      return it == last_row.end() ? nullptr : &it->second;
    }
  };
  // Finish in two halves, between which nothing is waited for, where BackendDraws: Enqueue after
  // Forward; Collect when what was enqueued is done, whatever steps have begun since.
  bool BackendDraws(const StepPlan& plan);  // a checked plan, before Begin
  Draws Enqueue(const StepPlan& plan, const BatchLayout& batch);
  std::vector<SequenceResult> Collect(const StepPlan& plan, const BatchLayout& batch,
                                      const Draws& draws);
  // The token that a step begun after the Collect of the one before calls by a DrawnId.
  void SetDrawn(SequenceId id, int32_t token) { sampler_.SetDrawn(id, token); }

 private:
  void AddWanted(const SequenceStep& step, int sequence, const BatchLayout& batch,
                 std::vector<Wanted>& wanted);
  void AddAnswer(const Wanted& wanted, const SequenceStep& step, const BatchLayout& batch,
                 SampledToken answer, SequenceResult& result);
  // A row to be drawn from or scored by the backend; false where it may not.
  bool AddToBatch(const Wanted& wanted, SequenceId id, int32_t row, DrawBatch& draws);
  // Enqueues the rows' logits and the draws from them.
  Tensor Compute(std::span<const int32_t> rows, DrawBatch& draws);
  // The tile's logits on the host, where it needs them: (rows, vocabulary part). What the backend
  // draws by itself is in `drawn`, a row each, token -1 for the others.
  std::span<const float> Fetch(std::span<const int32_t> rows, std::span<const Wanted> tile,
                               const StepPlan& plan, std::vector<SampledToken>& drawn);
  Status RunTile(std::span<const Wanted> tile, const StepPlan& plan, const BatchLayout& batch,
                 std::vector<SequenceResult>& results);

  Backend& backend_;
  Decoder& decoder_;
  Communicator& tp_;
  Sampler sampler_;
  const VocabPart part_;  // with `gather` where the backend reaches the other ranks by itself
  const bool backend_draws_;
  std::vector<float> logits_;  // host copy of a tile, where the backend's memory is another
};

}  // namespace echelon
