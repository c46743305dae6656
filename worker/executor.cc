#include "worker/executor.h"

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/rank_part.h"
#include "common/step_buffers.h"
#include "common/strings.h"
#include "worker/batch_layout.h"
#include "worker/comm/packed_text.h"
#include "worker/decoder.h"
#include "worker/kv_cache.h"
#include "worker/output_stage.h"
#include "worker/rank_groups.h"
#include "worker/sequence_parallel.h"
#include "worker/split_rehearsal.h"
#include "worker/timing_report.h"
#include "worker/token_ring.h"

namespace echelon {

namespace {

int ContextMax(const ModelConfig& model, const ExecutorOptions& options) {
  const int asked = options.context_max;
  return asked > 0 ? std::min(asked, model.context_max) : model.context_max;
}

// What ranks tell each other of their pages; longer names are cut off.
struct PackedPages {
  int32_t pages = 0;
  uint64_t bytes = 0;
  char host[64] = {};
  char device[64] = {};
};

// The same number of pages on all ranks: the least that any can hold. `unequal`: told which rank
// that is, where another could hold more.
Result<KvShape> AgreeOnPages(Result<KvShape> mine, const std::string& host,
                             const std::string& device, Communicator& world, std::string& unequal) {
  PackedPages own;
  if (mine.ok()) own.pages = mine->pages;
  if (mine.ok()) own.bytes = mine->PageBytes() * static_cast<uint64_t>(mine->pages);
  PutText(own.host, host);
  PutText(own.device, device);
  std::vector<PackedPages> all(static_cast<size_t>(world.size()));
  world.Wait(world.AllGather(&own, all.data(), sizeof(own)));
  if (!mine.ok()) return mine;
  const auto [least, most] = std::ranges::minmax_element(all, {}, &PackedPages::pages);
  const auto name = [&](const auto& at) {
    return StrCat("rank ", at - all.begin(), at->host[0] == '\0' ? "" : " on host ", at->host,
                  at->device[0] == '\0' ? "" : ", ", at->device);
  };
  const auto bytes = [](const auto& at) { return HumanBytes(static_cast<double>(at->bytes)); };
  mine->pages = least->pages;
  if (least->pages < most->pages) {
    unequal = StrCat("KV pages: ", least->pages, " on every rank, since ", name(least),
                     " has memory for no more (", bytes(least), "); ", name(most), " has for ",
                     most->pages, " (", bytes(most), ")");
  }
  if (mine->pages > 0) return mine;
  return ResourceExhausted(StrCat(name(least), " has no memory for KV pages: see its error"));
}

}  // namespace

namespace {
// Its operations ask nothing of the host: there are none, or they take their places in the stream.
bool NeedsNoHost(const Communicator& comm) { return comm.size() == 1 || comm.on_stream(); }
}  // namespace

int ResultRank(const ParallelLayout& layout) { return layout.RankOf({0, layout.pp - 1, 0}); }

class Executor::Impl {
 public:
  Impl(const ModelConfig& model, const ExecutorOptions& options, Weights weights, Backend& backend,
       RankGroups groups, const Clock& clock)
      : model_(model),
        part_(PartOf(model, options.layout, options.rank)),
        result_rank_(ResultRank(options.layout)),
        alone_(options.layout.world() == 1),
        // Messages of other ranks are a part of what repeats where they take their places in the
        // stream; a stage's neighbours and sp ranks get other messages each time.
        repeats_(alone_ || (options.layout.world() == options.layout.tp && groups.tp->on_stream())),
        ahead_(!backend.host_memory() && options.layout.pp == 1 && NeedsNoHost(*groups.tp) &&
               NeedsNoHost(*groups.sharing) && NeedsNoHost(*groups.ring)),
        weights_(std::move(weights)),
        backend_(backend),
        clock_(clock),
        groups_(std::move(groups)),
        token_ring_(*groups_.tokens),
        timing_report_(*groups_.reports, result_rank_) {
    if (alone_) return;
    backend_.SetTurn([this] { groups_.Poll(); });
    groups_.tp->SetIdle([this] { return ReadAhead(); });
  }
  ~Impl() { backend_.SetTurn({}); }

  Status Prepare(const ExecutorOptions& options, Communicator& world) {
    KvSettings kv;
    kv.page_tokens = options.page_tokens;
    kv.type = options.kv_type;
    const StepBounds bounds{options.step_tokens_max, options.sequences_max, kv.page_tokens,
                            options.layout.sp, TilesFor(backend_)};
    kv.device = backend_.DeviceName();
    kv.memory_bytes = options.kv_memory_bytes;
    if (kv.memory_bytes == 0) {
      const uint64_t free = backend_.FreeMemoryBytes() / std::max(options.ranks_on_memory, 1);
      kv.step_bytes = StepMemory(free, bounds);
      // Other programs need a host's memory too; a tenth of a device is for graphs and uploads.
      kv.memory_bytes =
          backend_.host_memory() ? free / 4 : (free - std::min(free, kv.step_bytes)) / 10 * 9;
    }
    kv.sequences_max = options.sequences_max;
    kv.context_max = ContextMax(model_, options);
    kv.sp = options.layout.sp;
    SequenceSharing sharing;
    sharing.parts = {kv.sp, kv.page_tokens};
    if (kv.sp > 1) {
      sharing.ring_pages = RingPages(kv.sp, kv.page_tokens, options.ring_tokens, kv.context_max);
    }
    kv.ring_pages = sharing.ring_pages;
    ASSIGN_OR_RETURN(const KvShape shape,
                     AgreeOnPages(SizeKvCache(model_, part_, kv), options.comm.host, kv.device,
                                  world, unequal_pages_));
    ASSIGN_OR_RETURN(cache_, backend_.AllocateKv(shape));
    if (kv.sp > 1) {
      sharing.rank = part_.at.sp;
      sharing.pages_per_rank = shape.pages;
      ASSIGN_OR_RETURN(sharing_, SequenceParallel::Create(model_, part_, sharing, backend_, *cache_,
                                                          *groups_.sharing, *groups_.ring, bounds));
    }
    ASSIGN_OR_RETURN(decoder_, Decoder::Create(model_, part_, weights_, backend_, *groups_.tp,
                                               *cache_, sharing_.get(), RankRowsMax(bounds)));
    if (part_.last_stage) {
      output_ =
          std::make_unique<OutputStage>(part_, backend_, *decoder_, *groups_.tp, *groups_.exchange);
    }
    limits_.step_tokens_max = options.step_tokens_max;
    limits_.sequences_max = options.sequences_max;
    limits_.pages = shape.pages * kv.sp;
    limits_.sp = kv.sp;
    limits_.page_tokens = shape.page_tokens;
    limits_.context_max = kv.context_max;
    limits_.vocab_size = model_.vocab_size;
    token_split_.emplace(MakeTokenSplit(options));
    groups_.TakeStats();  // the first step's begin with it
    return {};
  }

  bool TakesPlan() const { return steps_.size() < (ahead_ ? kMarksMax : 1); }
  int begun() const { return static_cast<int>(steps_.size()); }
  void Begin(StepPlan plan) {
    CHECK(TakesPlan());
    steps_.push_back({std::move(plan), {}, 0, {}, 0});
    EnqueueAhead();
  }
  bool Done() const { return !steps_.front().draws || backend_.Reached(steps_.front().mark); }
  Result<std::optional<StepResult>> End() {
    CHECK(!steps_.empty());
    Step& step = steps_.front();
    auto result = step.draws ? Collect(step) : RunNow(step);
    ended_ = std::move(step);
    steps_.pop_front();
    EnqueueAhead();
    return result;
  }

  const PlanLimits& limits() const { return limits_; }
  uint64_t kv_bytes() const { return cache_->shape().PageBytes() * cache_->shape().pages; }
  uint64_t kv_position_bytes() const {
    return cache_->shape().PageBytes() / cache_->shape().page_tokens;
  }
  uint64_t buffer_bytes() const {
    return decoder_->buffer_bytes() + (sharing_ ? sharing_->buffer_bytes() : 0);
  }
  bool is_result_rank() const { return part_.rank == result_rank_; }
  std::string DescribeTokenSplit() const { return token_split_->Describe(); }
  std::string DescribePages() const { return unequal_pages_; }

 private:
  // A plan from its Begin to its End.
  struct Step {
    StepPlan plan;
    BatchLayout batch;  // what the ops read lies here
    int64_t begin_us = 0;
    std::optional<OutputStage::Draws> draws;  // all of it has been enqueued, up to `mark`
    uint64_t mark = 0;
  };

  // Of `free` bytes, what steps take of a device that is ours: their buffers, and what ops take
  // besides. A device so small that this were most of it lets ops have less at once.
  uint64_t StepMemory(uint64_t free, const StepBounds& bounds) const {
    if (backend_.host_memory()) return 0;
    const auto buffers = static_cast<uint64_t>(StepBufferBytes(model_, part_, bounds));
    const int64_t widest =
        std::max<int64_t>({model_.d_model, int64_t{part_.heads()} * model_.head_dim, part_.ff()});
    const uint64_t scratch = backend_.ScratchBytes(RankRowsMax(bounds), widest);
    return buffers + std::min(scratch, free / 4);
  }

  // In the plans' order: one that has to wait holds up those behind it. Which those are, and what
  // is enqueued, depends on the plans alone, not on what this rank has ended by now: all ranks
  // enqueue the same, and where steps repeat the same as graphs, as NCCL asks. When a plan begins
  // the one before the last has ended everywhere it begins, so that of the tokens that go into the
  // decision none is still to come.
  void EnqueueAhead() {
    if (!ahead_) return;
    const Step* before = &ended_;
    for (Step& step : steps_) {
      if (!step.draws) {
        if (!CheckPlan(step.plan, table_, limits_).ok() || !output_->BackendDraws(step.plan))
          return;
        Compute(step, before);
        step.draws = output_->Enqueue(step.plan, step.batch);
        step.mark = backend_.Mark();
        if (before == &ended_) TellDrawn(step);
      }
      before = &step;
    }
  }

  // The tokens that `step` has from the one before, which has ended.
  void TellDrawn(const Step& step) {
    for (const SequenceRows& rows : step.batch.steps) {
      if (step.batch.ids[rows.begin] < 0) output_->SetDrawn(rows.id, token_ring_.TokenOf(rows.id));
    }
  }

  // The stage's ops. `before`: the step before, where its tokens are to be taken from the device's
  // memory if it has drawn them; or null.
  void Compute(Step& step, const Step* before) {
    step.begin_us = clock_.NowUs();
    ApplyPlan(step.plan, table_);
    step.batch = MakeBatch(step.plan, table_, limits_.page_tokens);
    ResolveTokens(step, before);
    if (output_) output_->Begin(step.plan, step.batch);
    if (repeats_) {
      const int64_t rows = backend_.PaddedRows(step.batch.rows());
      if (rows <= limits_.step_tokens_max) FillUp(step.batch, rows);
    }
    if (step.batch.rows() > 0) RunStage(step.batch);
  }

  Result<std::optional<StepResult>> Collect(const Step& step) {
    const Status done = backend_.WaitFor(step.mark);
    // First what another rank waits for.
    const std::vector<RankTiming> timings = timing_report_.Report(TimingSince(step.begin_us));
    RETURN_IF_ERROR(done);
    StepResult result = ResultOf(step, output_->Collect(step.plan, step.batch, *step.draws));
    // What a plan behind this one has released stays so.
    for (const Step& behind : steps_) {
      if (&behind != &step && behind.draws) token_ring_.Forget(behind.plan.released);
    }
    if (part_.rank != result_rank_) return std::optional<StepResult>();
    result.timings = timings;
    return std::optional(std::move(result));
  }

  Result<std::optional<StepResult>> RunNow(Step& step) {
    RETURN_IF_ERROR(CheckPlan(step.plan, table_, limits_));
    Compute(step, nullptr);
    std::optional<StepResult> result;
    if (output_) {
      ASSIGN_OR_RETURN(auto sequences, output_->Finish(step.plan, step.batch));
      result = ResultOf(step, std::move(sequences));
    }
    backend_.Synchronize();  // the batch ends with this step
    // First what another rank waits for.
    const std::vector<RankTiming> timings = timing_report_.Report(TimingSince(step.begin_us));
    RETURN_IF_ERROR(backend_.Health());
    if (part_.rank != result_rank_) return std::optional<StepResult>();
    result->timings = timings;
    return result;
  }

  // About a microsecond's worth.
  bool ReadAhead() {
    constexpr int kPieces = 8;
    int read = 0;
    while (read < kPieces && backend_.ReadAhead()) ++read;
    return read == kPieces;
  }

  void ResolveTokens(Step& step, const Step* before) {
    if (!part_.first_stage && !part_.last_stage) return;
    for (const SequenceRows& rows : step.batch.steps) {
      int32_t& token = step.batch.ids[rows.begin];
      if (token != kTokenFromLastStep) continue;
      const int32_t* row = before && before->draws ? before->draws->RowOf(rows.id) : nullptr;
      token = row ? DrawnId(*row) : token_ring_.TokenOf(rows.id);
    }
    if (part_.first_stage) {
      token_ring_.Expect(step.plan);
    } else {
      token_ring_.Forget(step.plan.released);
    }
  }

  // Ranks of one host copy in their own time: nothing travels meanwhile. With sp ranks a split
  // passes keys and values twice, which is not rehearsed. There only where it is asked for.
  TokenSplit MakeTokenSplit(const ExecutorOptions& options) {
    TokenSplitMode mode = options.token_split;
    if (mode == TokenSplitMode::kAuto && (groups_.tp->hosts() == 1 || options.layout.sp > 1)) {
      mode = TokenSplitMode::kOff;
    }
    std::vector<SplitTimes> times;
    if (mode == TokenSplitMode::kAuto) {
      times = RehearseSplit(model_, part_, *decoder_, *cache_, *groups_.tp, limits_.step_tokens_max,
                            clock_);
    }
    return TokenSplit(model_, mode, std::move(times));
  }

  static std::vector<StepRows> Parts(const BatchLayout& all, int64_t cut) {
    if (cut == 0) return {all.step_rows()};
    return {all.step_rows(0, cut), all.step_rows(cut, all.rows())};
  }

  void RunStage(const BatchLayout& all) {
    const int64_t cut = token_split_->Begin(all);
    const std::vector<StepRows> parts = sharing_ ? sharing_->Begin(all, cut) : Parts(all, cut);
    int64_t begin_us = EndOfOps();
    if (repeats_) {
      backend_.Repeat(all.rows(), [&] {
        groups_.tp->Restart();
        decoder_->Embed(parts);
        decoder_->Forward();
      });
    } else {
      if (part_.first_stage) {
        decoder_->Embed(parts);
      } else {
        decoder_->Receive(parts, *groups_.previous);
      }
      begin_us = EndOfOps();
      decoder_->Forward();
    }
    const auto compared = token_split_->Took(static_cast<double>(EndOfOps() - begin_us) * 1e-6);
    if (compared) token_split_->Learn(SlowestOf(*compared, *groups_.exchange));
    if (!part_.last_stage) decoder_->Send(*groups_.next);
  }

  // When what was enqueued is done, where that is asked for: while the split is being chosen.
  int64_t EndOfOps() {
    if (token_split_->choosing()) backend_.Synchronize();
    return clock_.NowUs();
  }

  StepResult ResultOf(const Step& step, std::vector<SequenceResult> sequences) {
    StepResult result;
    result.step_id = step.plan.step_id;
    result.epoch = step.plan.epoch;
    result.sequences = std::move(sequences);
    std::vector<int32_t> tokens;
    for (size_t s = 0; s < step.plan.sequences.size(); ++s) {
      if (step.plan.sequences[s].sample) tokens.push_back(result.sequences[s].sampled.back().token);
    }
    token_ring_.Deliver(step.plan, tokens);
    return result;
  }

  // Of a step that begins on the device when the one before it ends.
  RankTiming TimingSince(int64_t begin_us) {
    const CommStats stats = groups_.TakeStats();
    const int64_t from_us = std::max(begin_us, std::exchange(ended_us_, clock_.NowUs()));
    const double wall = static_cast<double>(ended_us_ - from_us) * 1e-6;
    RankTiming timing;
    timing.rank = part_.rank;
    timing.compute_seconds = static_cast<float>(std::max(0.0, wall - stats.exposed_seconds));
    timing.comm_hidden_seconds = static_cast<float>(stats.hidden_seconds);
    timing.comm_exposed_seconds = static_cast<float>(stats.exposed_seconds);
    if (sharing_) {
      const PassingCounts passed = sharing_->TakeCounts();
      timing.queries_passed = passed.queries;
      timing.keys_passed = passed.keys;
    }
    return timing;
  }

  const ModelConfig model_;
  const RankPart part_;
  const int result_rank_;
  const bool alone_;    // one rank: its steps are the backend's ops and nothing else
  const bool repeats_;  // its steps go through Backend::Repeat
  const bool ahead_;    // a device computes them while this thread goes on
  const Weights weights_;
  Backend& backend_;
  const Clock& clock_;
  RankGroups groups_;
  TokenRing token_ring_;
  TimingReport timing_report_;
  PlanLimits limits_;
  SequenceTable table_;
  std::deque<Step> steps_;
  Step ended_;            // the last that did
  int64_t ended_us_ = 0;  // the step that ended last
  std::unique_ptr<KvCache> cache_;
  std::string unequal_pages_;                  // empty: all ranks can hold the same
  std::unique_ptr<SequenceParallel> sharing_;  // sp > 1
  std::optional<TokenSplit> token_split_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<OutputStage> output_;  // last stage
};

Executor::Executor(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Executor::~Executor() = default;

Result<std::unique_ptr<Executor>> Executor::Create(const ModelConfig& model,
                                                   const ExecutorOptions& options, Weights weights,
                                                   Backend& backend, Communicator& world,
                                                   const Clock& clock) {
  CHECK(world.rank() == options.rank && world.size() == options.layout.world());
  ASSIGN_OR_RETURN(RankGroups groups,
                   RankGroups::Make(world, options.layout, options.layout.PositionOf(options.rank),
                                    backend, options.comm));
  auto impl =
      std::make_unique<Impl>(model, options, std::move(weights), backend, std::move(groups), clock);
  RETURN_IF_ERROR(impl->Prepare(options, world));
  return std::unique_ptr<Executor>(new Executor(std::move(impl)));
}

bool Executor::TakesPlan() const { return impl_->TakesPlan(); }
void Executor::Begin(StepPlan plan) { impl_->Begin(std::move(plan)); }
int Executor::begun() const { return impl_->begun(); }
bool Executor::Done() const { return impl_->Done(); }
Result<std::optional<StepResult>> Executor::End() { return impl_->End(); }
int Executor::pages() const { return impl_->limits().pages; }
int Executor::context_max() const { return impl_->limits().context_max; }
uint64_t Executor::kv_bytes() const { return impl_->kv_bytes(); }
uint64_t Executor::kv_position_bytes() const { return impl_->kv_position_bytes(); }
uint64_t Executor::buffer_bytes() const { return impl_->buffer_bytes(); }
bool Executor::is_result_rank() const { return impl_->is_result_rank(); }
std::string Executor::DescribeTokenSplit() const { return impl_->DescribeTokenSplit(); }
std::string Executor::DescribePages() const { return impl_->DescribePages(); }

}  // namespace echelon
