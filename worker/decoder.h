#pragma once
// Decoder: one pipeline stage of the model, an interpreter of a BlockSchedule. It holds the
// residual stream of the step at hand and the sub-blocks' outputs whose all-reduces are in flight;
// weights and KV memory are handed in. One thread; the same calls in the same order on all tp
// ranks.
//
// A step:  Embed or Receive -> Forward -> Send, or Logits (some rows at a time).
//
// A step may come in two parts, which take turns at every sub-block: while the all-reduce of one
// travels the other computes. A row's bits do not depend on its company, so parts change none; the
// second part attends keys and values that the first has stored.

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "common/block_schedule.h"
#include "common/clock.h"
#include "common/model_config.h"
#include "common/rank_part.h"
#include "common/result.h"
#include "common/step_buffers.h"
#include "kernels/backend.h"
#include "worker/attention.h"
#include "worker/batch_layout.h"
#include "worker/comm/communicator.h"
#include "worker/mlp.h"
#include "worker/tensor_buffers.h"
#include "worker/weights.h"

namespace echelon {

inline const RowTiles& TilesFor(const Backend& backend) {
  return backend.host_memory() ? kHostTiles : kDeviceTiles;
}

class Decoder {
 public:
  // All references outlive the decoder. `sharing`: null without sequence parallelism; with it the
  // parts of a step are what sharing->Begin said. rows_max: of one step, that this rank computes.
  static Result<std::unique_ptr<Decoder>> Create(const ModelConfig& model, const RankPart& part,
                                                 const Weights& weights, Backend& backend,
                                                 Communicator& tp, KvCache& cache,
                                                 SequenceParallel* sharing, int64_t rows_max);

  // First stage: the stream begins as the embedding of the parts' ids. What the parts view lives
  // until Forward has returned and the backend is synchronized.
  void Embed(std::span<const StepRows> parts);
  // Later stages: the stream as the stage before, rank 0 of the pair `link`, sent it.
  void Receive(std::span<const StepRows> parts, Communicator& link);
  // Runs the stage's sub-blocks; on the last stage nothing is pending afterwards.
  void Forward();
  // Seconds, by `clock`, of the stage's layers [layer, layer + layers) in the midst of others, on a
  // stream of zeros: runs them behind the layer before them, which is there: layer >= 1. Writes
  // keys and values of the rows.
  double Rehearse(std::span<const StepRows> parts, int layer, int layers, const Clock& clock);
  // Hands the stream to the next stage, rank 1 of the pair `link`: the residual, then the pending
  // outputs, reduced. The buffers are free again when the step after the next begins.
  void Send(Communicator& link);
  // Last stage; (rows.size(), vocabulary part): final norm and LM head of these rows (of the
  // whole step, on all sp ranks). rows.size() at most logit_rows_max(); enqueued when it returns,
  // `rows` may change after Synchronize(); valid until the next call.
  int64_t logit_rows_max() const { return logits_.rows; }
  uint64_t buffer_bytes() const { return tensors_.bytes(); }
  bool sharing() const { return sharing_ != nullptr; }  // Logits exchanges messages
  Tensor Logits(std::span<const int32_t> rows);

 private:
  // A part's share of a sub-block's output on its way into the residual.
  struct Pending {
    SubBlockStep step;
    Tensor output;                     // (T, d_model), of the whole step
    std::optional<CommHandle> handle;  // of AllReduceRows; none: nothing is reduced (any more)
  };
  // Rows that pass through the sub-blocks together.
  struct Part {
    int index = 0;
    Range range;  // of the step's rows
    BatchRows rows;
    CommHandle embedded;
    std::deque<Pending> pending;
    Tensor Of(const Tensor& step) const { return step.Rows(range.begin, range.end); }
  };
  // One step's stream; two where it is sent on, so that one can be sent while the next runs.
  struct Stream {
    Tensor residual;              // (rows_max, d_model)
    std::vector<Tensor> outputs;  // (rows_max, d_model) each: in_flight_max + 1
    Communicator* sent_over = nullptr;
    CommHandle sent;
  };

  Decoder(const ModelConfig& model, const RankPart& part, const Weights& weights, Backend& backend,
          Communicator& tp, KvCache& cache, SequenceParallel* sharing);
  Status Allocate(int64_t rows_max);

  void BeginStep(std::span<const StepRows> parts);
  Tensor NextOutput();
  void RunSteps(size_t begin, size_t end);
  // What the step reads: outputs that are due are merged into the stream, and that is normed.
  Tensor MergeAndNorm(const SubBlockStep& step, Part& part);
  void Run(const SubBlockStep& step, Part& part, Tensor x, Tensor output);
  // Tells the backend which weight is multiplied first in step `next` of the stage, or behind it.
  void AnnounceStep(size_t next);
  void RunBlock(const SubBlockStep& step, const Part& part, Tensor x, Tensor out);
  void RunMlpInto(const LayerWeights& w, Tensor x, Tensor out);
  void MergeDownTo(size_t in_flight, Part& part);
  void Merge(const Pending& pending, const Part& part);
  const float* PostNorm(const SubBlockStep& step) const;
  void Zero(Tensor tensor);

  const ModelConfig& model_;
  const RankPart& part_;
  const Weights& weights_;
  Backend& backend_;
  Communicator& tp_;
  SequenceParallel* sharing_;
  AttentionBlock attention_;

  std::vector<SubBlockStep> steps_;     // of this stage
  std::vector<SubBlockStep> entering_;  // pending when the stage begins
  int leaving_ = 0;                     // pending that the next stage takes over

  TensorBuffers tensors_{backend_};
  std::vector<Stream> streams_;
  Stream* stream_ = nullptr;  // of the step at hand
  uint64_t steps_begun_ = 0;
  uint64_t outputs_begun_ = 0;
  Tensor residual_;          // (T, d_model): the rows in use
  std::vector<Part> parts_;  // of the step at hand, in the order of their rows

  Tensor normed_;         // (rows_max, d_model)
  Tensor second_output_;  // (rows_max, d_model): the MLP's, where one reduce takes both
  AttentionScratch attention_scratch_;
  Tensor mlp_scratch_;                   // (some rows, 2 F)
  Tensor head_rows_, head_normed_;       // (logit_rows_max(), d_model)
  Tensor logits_;                        // (logit_rows_max(), vocabulary part)
  std::unique_ptr<DeviceBuffer> zeros_;  // only where the rank's share of something is empty
};

}  // namespace echelon
