#pragma once
// SequenceParallel: attention over keys and values that several sp ranks keep. In place of one
// Backend::Attention it passes queries, keys or partial results as the step's SequencePlan says,
// attends what is at hand while messages travel, and merges the partials in the order of the parts.
// One thread; collective over the sp group: the same calls in the same order on all of its ranks.
//
// A step:  Begin -> Attend for every layer and part -> GatherRows

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "common/model_config.h"
#include "common/rank_part.h"
#include "common/result.h"
#include "common/step_buffers.h"
#include "kernels/backend.h"
#include "worker/comm/communicator.h"
#include "worker/sequence_plan.h"
#include "worker/tensor_buffers.h"

namespace echelon {

// How often what was passed since the last report: sequences times layers.
struct PassingCounts {
  uint32_t queries = 0;
  uint32_t keys = 0;
};

class SequenceParallel {
 public:
  // `exchange`, `ring`: two queues over the same sp ranks, in rank order. All references outlive
  // the object. The staging cache holds kRingMessages * sharing.ring_pages pages of a layer.
  static Result<std::unique_ptr<SequenceParallel>> Create(
      const ModelConfig& model, const RankPart& part, const SequenceSharing& sharing,
      Backend& backend, KvCache& cache, Communicator& exchange, Communicator& ring,
      const StepBounds& bounds);

  // The rows of the whole step, page ids of the whole group; cut into two parts at row `cut`, or
  // one part where it is 0. This rank's rows of each part, which live until the next Begin.
  std::vector<StepRows> Begin(const BatchLayout& all, int64_t cut);
  // args as for one rank, of this rank's rows of a part: reads q, heads, scale, window, layer;
  // writes out.
  void Attend(const AttentionArgs& args, int part);
  // Last stage, at most LogitRows rows: out (rows.size(), d_model), on all ranks: x (own
  // rows, d_model) of the step's rows `rows`.
  void GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out);
  uint64_t buffer_bytes() const { return tensors_.bytes(); }
  PassingCounts TakeCounts();  // since the last call

 private:
  SequenceParallel(const RankPart& part, const SequenceSharing& sharing, Backend& backend,
                   KvCache& cache, Communicator& exchange, Communicator& ring);
  Status Allocate(const SharingBuffers& sizes);
  // SequenceSharing::bytes_per_pair of the slowest link beside the fastest rank. Collective.
  double MeasureBytesPerPair(const ModelConfig& model, const RankPart& part);
  double PassingSeconds();
  double AttentionSeconds(const AttentionArgs& args);
  const AttentionPlan& PlanOf(int part, int window);
  // Which rank has row t of the step (-1: all), and its place among that rank's rows.
  struct Keeper {
    int rank;
    int32_t place;
  };
  Keeper KeeperOf(int64_t t) const;
  // body(rows of that rank, rank) for every other rank that passes queries; `rows` holds theirs in
  // rank order.
  template <typename Body>
  void ForForeign(const AttentionPlan& plan, Tensor rows, Body body);
  // The other ranks, starting behind this one, so that they do not all send to rank 0 first.
  std::vector<int> Others() const;

  void PostQueries(const AttentionPlan& plan, Tensor q);
  void AnswerQueries(const AttentionPlan& plan, const AttentionArgs& args);
  void ShareCopied(const AttentionPlan& plan);
  int32_t FirstPageOf(int pass, int message) const;
  void BeginPass(const AttentionPlan& plan, int pass, int layer);
  void FinishPass(const AttentionPlan& plan, int pass, const AttentionArgs& args);
  CommHandle PostHop(const AttentionPlan& plan, int pass, int hop);
  void AttendPages(const AttendList& list, const KvCache& cache, int layer,
                   const AttentionArgs& args, Tensor q, Tensor partials);

  SequenceSharing sharing_;
  const int heads_, head_dim_;
  Backend& backend_;
  KvCache& cache_;
  Communicator& exchange_;
  Communicator& ring_;
  std::unique_ptr<KvCache> staging_;  // kRingMessages of ring_pages pages
  TensorBuffers tensors_{backend_};
  // As SharingBuffers has them.
  Tensor queries_, key_queries_;
  Tensor foreign_queries_, foreign_partials_;
  Tensor copied_partials_, partials_;
  Tensor collected_;
  int64_t cut_ = 0;                  // row where the second part begins
  std::vector<SequencePlan> plans_;  // of the step's parts
  std::map<std::pair<int, int>, AttentionPlan> attention_plans_;  // by part and window
  std::deque<std::vector<int32_t>> gathered_;  // rows that ops of the step gather
  CommHandle exchanged_;                       // the last operation of the exchange
  CommHandle hop_;                             // of the ring
  PassingCounts counts_;
};

}  // namespace echelon
