#include "worker/sequence_parallel.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "common/check.h"
#include "worker/comm/step_comm.h"

namespace echelon {

namespace {
// What the rule of passing is fed with, measured once: 256 KiB are 2 ms of a link of 1 Gbit/s, many
// times its latency; 32 rows over a split are a block of rows as long steps have, under a ms.
constexpr size_t kMeasuredBytes = 256 << 10;
constexpr int64_t kMeasuredRows = 32;

size_t BytesOf(const Tensor& dense) {
  return static_cast<size_t>(dense.rows * dense.cols) * sizeof(float);
}
}  // namespace

SequenceParallel::SequenceParallel(const RankPart& part, const SequenceSharing& sharing,
                                   Backend& backend, KvCache& cache, Communicator& exchange,
                                   Communicator& ring)
    : sharing_(sharing),
      heads_(part.heads()),
      head_dim_(cache.shape().head_dim),
      backend_(backend),
      cache_(cache),
      exchange_(exchange),
      ring_(ring) {
  CHECK(exchange.size() == sharing.parts.parts && exchange.rank() == sharing.rank);
  CHECK(ring.size() == sharing.parts.parts && ring.rank() == sharing.rank);
}

Result<std::unique_ptr<SequenceParallel>> SequenceParallel::Create(
    const ModelConfig& model, const RankPart& part, const SequenceSharing& sharing,
    Backend& backend, KvCache& cache, Communicator& exchange, Communicator& ring,
    const StepBounds& bounds) {
  SequenceSharing counted = sharing;
  counted.page_bytes = static_cast<int64_t>(cache.PageData(0, 0, 1).size());
  counted.query_bytes = int64_t{part.heads()} * model.head_dim * int64_t{sizeof(float)};
  counted.partial_bytes = int64_t{part.heads()} * (model.head_dim + 2) * int64_t{sizeof(float)};
  std::unique_ptr<SequenceParallel> made(
      new SequenceParallel(part, counted, backend, cache, exchange, ring));
  RETURN_IF_ERROR(made->Allocate(SharingBuffersOf(model, part, bounds)));
  if (ring.hosts() > 1) made->sharing_.bytes_per_pair = made->MeasureBytesPerPair(model, part);
  return made;
}

Status SequenceParallel::Allocate(const SharingBuffers& sizes) {
  ASSIGN_OR_RETURN(queries_, tensors_.New(sizes.queries));
  ASSIGN_OR_RETURN(key_queries_, tensors_.New(sizes.queries));
  ASSIGN_OR_RETURN(foreign_queries_, tensors_.New(sizes.foreign_queries));
  ASSIGN_OR_RETURN(foreign_partials_, tensors_.New(sizes.foreign_partials));
  ASSIGN_OR_RETURN(copied_partials_, tensors_.New(sizes.copied_partials));
  ASSIGN_OR_RETURN(partials_, tensors_.New(sizes.partials));
  if (sizes.collected.rows > 0) {
    ASSIGN_OR_RETURN(collected_, tensors_.New(sizes.collected));
  }
  KvShape staging = cache_.shape();
  staging.layers = 1;
  staging.pages = kRingMessages * sharing_.ring_pages;
  ASSIGN_OR_RETURN(staging_, backend_.AllocateKv(staging));
  return {};
}

// A message as long as the staging cache has room for, to the next rank: the second of two.
double SequenceParallel::PassingSeconds() {
  const auto leaving = staging_->PageData(0, 0, sharing_.ring_pages);
  const auto coming = staging_->PageData(0, sharing_.ring_pages, sharing_.ring_pages);
  const size_t bytes = std::min(leaving.size(), kMeasuredBytes);
  const int ranks = sharing_.parts.parts;
  double seconds = 0.0;
  for (int round = 0; round < 2; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    ring_.Send(leaving.data(), bytes, (sharing_.rank + 1) % ranks);
    ring_.Wait(ring_.Recv(coming.data(), bytes, (sharing_.rank - 1 + ranks) % ranks));
    backend_.Synchronize();
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  return seconds / static_cast<double>(bytes);
}

double SequenceParallel::AttentionSeconds(const AttentionArgs& args) {
  double seconds = 0.0;
  for (int round = 0; round < 2; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    backend_.Attention(args);
    backend_.Synchronize();
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  return seconds;
}

double SequenceParallel::MeasureBytesPerPair(const ModelConfig& model, const RankPart& part) {
  const int page_tokens = cache_.shape().page_tokens;
  const auto rows = static_cast<int32_t>(std::min<int64_t>(kMeasuredRows, queries_.rows));
  const int32_t places = std::min(kAttentionSplit, sharing_.ring_pages * page_tokens);
  AttendList list;
  list.sequences.assign(rows, 0);
  list.begin.assign(rows, 0);
  list.end.assign(rows, places);
  list.page_begin = {0, sharing_.ring_pages};
  for (int32_t page = 0; page < sharing_.ring_pages; ++page) list.pages.push_back(page);
  const size_t query_bytes = BytesOf(queries_.Rows(0, rows)),
               kv_bytes = staging_->PageData(0, 0, sharing_.ring_pages).size();
  const std::vector<std::byte> zeros(std::max(query_bytes, kv_bytes));
  backend_.Upload(zeros.data(), queries_.data, query_bytes);
  backend_.Upload(zeros.data(), staging_->PageData(0, 0, 1).data(), kv_bytes);
  AttentionArgs args;
  args.heads = heads_;
  args.head_dim = head_dim_;
  args.head_begin = static_cast<int>(part.shard.heads.begin);
  args.group = model.n_heads / model.n_kv_heads;
  args.kv_begin = static_cast<int>(part.shard.kv_heads.begin);
  args.scale = model.attention_scale;
  args.q = queries_.Rows(0, rows);
  args.rows = list.rows();
  args.cache = staging_.get();
  args.begin = list.begin;
  args.end = list.end;
  args.partials = partials_.Rows(0, rows);

  const double pairs = static_cast<double>(rows) * places;
  const double mine = AttentionSeconds(args) / pairs / PassingSeconds();
  // By way of the backend's memory, from which the group sends.
  std::vector<double> all(sharing_.parts.parts);
  backend_.Upload(&mine, queries_.data, sizeof(mine));
  FinishFor(backend_, exchange_);
  exchange_.Wait(exchange_.AllGather(queries_.data, partials_.data, sizeof(mine)));
  backend_.Download(partials_.data, all.data(), all.size() * sizeof(mine));
  backend_.Synchronize();
  return *std::min_element(all.begin(), all.end());
}

std::vector<StepRows> SequenceParallel::Begin(const BatchLayout& all, int64_t cut) {
  attention_plans_.clear();
  plans_.clear();
  gathered_.clear();
  cut_ = cut;
  if (cut > 0) plans_.emplace_back(sharing_, CutBatch(all, 0, cut));
  plans_.emplace_back(sharing_, cut > 0 ? CutBatch(all, cut, all.rows()) : all);
  std::vector<StepRows> own;
  for (const SequencePlan& plan : plans_) own.push_back(plan.OwnRows().step_rows());
  return own;
}

// The rows of the second part stand behind those of the first.
SequenceParallel::Keeper SequenceParallel::KeeperOf(int64_t t) const {
  if (cut_ == 0 || t < cut_) return {plans_[0].OwnerOf(t), plans_[0].PlaceOf(t)};
  const auto before = static_cast<int32_t>(plans_[0].OwnRows().rows());
  return {plans_[1].OwnerOf(t - cut_), before + plans_[1].PlaceOf(t - cut_)};
}

PassingCounts SequenceParallel::TakeCounts() { return std::exchange(counts_, {}); }

const AttentionPlan& SequenceParallel::PlanOf(int part, int window) {
  const auto [at, inserted] = attention_plans_.try_emplace({part, window});
  if (!inserted) return at->second;
  at->second = plans_[part].Attention(window);
  // The pages of each source lie in the message buffer of the hop that brings them.
  const int ranks = sharing_.parts.parts;
  std::vector<RingPass>& passes = at->second.passes;
  for (int pass = 0; pass < static_cast<int>(passes.size()); ++pass) {
    for (int hop = 0; hop + 1 < ranks; ++hop) {
      AttendList& list = passes[pass].lists[(sharing_.rank - hop - 1 + ranks) % ranks];
      for (int32_t& page : list.pages) {
        if (page >= 0) page += FirstPageOf(pass, hop + 1);
      }
    }
  }
  return at->second;
}

// Message buffers are taken in turn: one for the own pages of a pass, then one for each hop.
int32_t SequenceParallel::FirstPageOf(int pass, int message) const {
  return (pass * sharing_.parts.parts + message) % kRingMessages * sharing_.ring_pages;
}

std::vector<int> SequenceParallel::Others() const {
  std::vector<int> ranks;
  for (int i = 1; i < sharing_.parts.parts; ++i) {
    ranks.push_back((sharing_.rank + i) % sharing_.parts.parts);
  }
  return ranks;
}

void SequenceParallel::Attend(const AttentionArgs& args, int part) {
  const AttentionPlan& plan = PlanOf(part, args.window);
  const auto own = static_cast<int64_t>(plan.own.begin.size());
  counts_.queries += plan.query_sequences;
  counts_.keys += plan.key_sequences;
  const Tensor key_queries = key_queries_.Rows(0, static_cast<int64_t>(plan.key_rows.size()));
  backend_.GatherRows(args.q, plan.key_rows, key_queries);
  PostQueries(plan, args.q);
  if (!plan.passes.empty()) BeginPass(plan, 0, args.layer);
  AttendPages(plan.own, cache_, args.layer, args, args.q, partials_.Rows(0, own));
  ShareCopied(plan);
  AnswerQueries(plan, args);
  for (int pass = 0; pass < static_cast<int>(plan.passes.size()); ++pass) {
    FinishPass(plan, pass, args);
  }
  exchange_.Wait(exchanged_);
  if (own == 0) return;
  backend_.MergeAttention(
      {partials_, plan.merge_begin, plan.merge_parts, heads_, head_dim_, args.out});
  FinishFor(backend_, exchange_);  // the partials' places are free for the next layer's messages
}

template <typename Body>
void SequenceParallel::ForForeign(const AttentionPlan& plan, Tensor rows, Body body) {
  int64_t at = 0;
  for (int rank = 0; rank < sharing_.parts.parts; ++rank) {
    const int64_t count = rank == sharing_.rank ? 0 : plan.query_counts[rank];
    if (count > 0) body(rows.Rows(at, at + count), rank);
    at += count;
  }
}

void SequenceParallel::PostQueries(const AttentionPlan& plan, Tensor q) {
  const Tensor mine = queries_.Rows(0, static_cast<int64_t>(plan.query_rows.size()));
  backend_.GatherRows(q, plan.query_rows, mine);
  FinishFor(backend_, exchange_);
  for (const int rank : Others()) {
    if (mine.rows > 0) exchanged_ = exchange_.Send(mine.data, BytesOf(mine), rank);
  }
  ForForeign(plan, foreign_queries_, [&](Tensor theirs, int rank) {
    exchanged_ = exchange_.Recv(theirs.data, BytesOf(theirs), rank);
  });
  exchange_.Poll();  // they travel while the own pages are attended
}

// Rows that all ranks have: one exchange of the partials, to everyone.
void SequenceParallel::ShareCopied(const AttentionPlan& plan) {
  if (plan.copied_rows.empty()) return;
  const auto count = static_cast<int64_t>(plan.copied_rows.size());
  const Tensor mine = copied_partials_.Rows(0, count);
  backend_.GatherRows(partials_, plan.copied_rows, mine);
  FinishFor(backend_, exchange_);
  exchanged_ = exchange_.AllGather(mine.data, partials_.row(plan.CopiedPartials()), BytesOf(mine));
}

// Attends the others' queries over this rank's pages and sends the partials back.
void SequenceParallel::AnswerQueries(const AttentionPlan& plan, const AttentionArgs& args) {
  const auto foreign = static_cast<int64_t>(plan.foreign.begin.size());
  if (foreign > 0) {
    exchange_.Wait(exchanged_);
    AttendPages(plan.foreign, cache_, args.layer, args, foreign_queries_.Rows(0, foreign),
                foreign_partials_.Rows(0, foreign));
    FinishFor(backend_, exchange_);
  }
  ForForeign(plan, foreign_partials_, [&](Tensor theirs, int rank) {
    exchanged_ = exchange_.Send(theirs.data, BytesOf(theirs), rank);
  });
  const auto mine = static_cast<int64_t>(plan.query_rows.size());
  for (const int rank : Others()) {
    if (mine == 0) break;
    const int64_t from = plan.QueryPartials(rank);
    const Tensor back = partials_.Rows(from, from + mine);
    exchanged_ = exchange_.Recv(back.data, BytesOf(back), rank);
  }
  exchange_.Poll();
}

// Puts this rank's pages of the pass side by side and starts the first hop.
void SequenceParallel::BeginPass(const AttentionPlan& plan, int pass, int layer) {
  int32_t at = FirstPageOf(pass, 0);
  for (const int32_t page : plan.passes[pass].own_pages) {
    const auto from = cache_.PageData(layer, page, 1), to = staging_->PageData(0, at++, 1);
    backend_.Copy(from.data(), to.data(), from.size());
  }
  FinishFor(backend_, ring_);
  hop_ = PostHop(plan, pass, 0);
}

// Hop h: the pages of rank me - h leave message h of the pass while those of rank me - h - 1 arrive
// in the next.
CommHandle SequenceParallel::PostHop(const AttentionPlan& plan, int pass, int hop) {
  const int ranks = sharing_.parts.parts, me = sharing_.rank;
  const int leaving = (me - hop + ranks) % ranks, coming = (me - hop - 1 + ranks) % ranks;
  const auto buffer = [&](int message, int rank) {
    return staging_->PageData(0, FirstPageOf(pass, message), plan.passes[pass].page_count[rank]);
  };
  CommHandle last = hop_;
  if (plan.passes[pass].page_count[leaving] > 0) {
    const auto data = buffer(hop, leaving);
    last = ring_.Send(data.data(), data.size(), (me + 1) % ranks);
  }
  if (plan.passes[pass].page_count[coming] > 0) {
    const auto data = buffer(hop + 1, coming);
    last = ring_.Recv(data.data(), data.size(), (me - 1 + ranks) % ranks);
  }
  ring_.Poll();  // this hop travels while the pages at hand are attended
  return last;
}

// The first hop is on its way. Every message is attended while the next one travels, the last while
// the next pass begins: neither of its two buffers is the one that is attended.
void SequenceParallel::FinishPass(const AttentionPlan& plan, int pass, const AttentionArgs& args) {
  const int ranks = sharing_.parts.parts;
  const bool last = pass + 1 == static_cast<int>(plan.passes.size());
  const auto rows = static_cast<int64_t>(plan.key_rows.size());
  for (int hop = 0; hop + 1 < ranks; ++hop) {
    ring_.Wait(hop_);
    if (hop + 2 < ranks) {
      hop_ = PostHop(plan, pass, hop + 1);
    } else if (!last) {
      BeginPass(plan, pass + 1, args.layer);
    }
    const int source = (sharing_.rank - hop - 1 + ranks) % ranks;
    const int64_t at = plan.KeyPartials(source);
    AttendPages(plan.passes[pass].lists[source], *staging_, 0, args, key_queries_.Rows(0, rows),
                partials_.Rows(at, at + rows));
    FinishFor(backend_, ring_);  // a later message arrives in this buffer
  }
}

void SequenceParallel::AttendPages(const AttendList& list, const KvCache& cache, int layer,
                                   const AttentionArgs& args, Tensor q, Tensor partials) {
  if (q.rows == 0) return;
  AttentionArgs part = args;
  part.q = q;
  part.out = Tensor();
  part.rows = list.rows();
  part.cache = &cache;
  part.layer = layer;
  part.begin = list.begin;
  part.end = list.end;
  part.partials = partials;
  backend_.Attention(part);
}

void SequenceParallel::GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out) {
  const int ranks = sharing_.parts.parts;
  // Rows by the rank that sends them; those that all have count as this rank's and are not sent.
  std::vector<std::vector<int32_t>> wanted(ranks + 1);
  for (size_t i = 0; i < rows.size(); ++i) {
    const int owner = KeeperOf(rows[i]).rank;
    wanted[owner == -1 ? ranks : owner].push_back(static_cast<int32_t>(i));
  }
  std::vector<int32_t>& order = gathered_.emplace_back(rows.size());
  int64_t at = 0;
  std::vector<Tensor> blocks;
  for (const auto& group : wanted) {
    const auto count = static_cast<int64_t>(group.size());
    for (int64_t i = 0; i < count; ++i) order[group[i]] = static_cast<int32_t>(at + i);
    blocks.push_back(collected_.Rows(at, at + count));
    at += count;
  }
  for (const int group : {sharing_.rank, ranks}) {
    std::vector<int32_t>& places = gathered_.emplace_back();
    for (const int32_t i : wanted[group]) places.push_back(KeeperOf(rows[i]).place);
    backend_.GatherRows(x, places, blocks[group]);
  }
  FinishFor(backend_, exchange_);
  CommHandle last;
  const Tensor mine = blocks[sharing_.rank];
  for (const int rank : Others()) {
    if (mine.rows > 0) last = exchange_.Send(mine.data, BytesOf(mine), rank);
  }
  for (const int rank : Others()) {
    if (blocks[rank].rows == 0) continue;
    last = exchange_.Recv(blocks[rank].data, BytesOf(blocks[rank]), rank);
  }
  exchange_.Wait(last);
  backend_.GatherRows(collected_, order, out);
}

}  // namespace echelon
