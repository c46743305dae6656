#include "worker/comm/reduction.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "common/check.h"
#include "common/parallel_layout.h"

namespace echelon {

namespace {

// out[i] = terms[0][i] + terms[1][i] + ...; out may be one of the terms.
void SumInOrder(const std::vector<const float*>& terms, float* out, int64_t count) {
  constexpr int64_t kChunk = 16;  // floats: the sums stay in registers
  int64_t i = 0;
  for (; i + kChunk <= count; i += kChunk) {
    float sum[kChunk];
    std::memcpy(sum, terms[0] + i, sizeof(sum));
    for (size_t term = 1; term < terms.size(); ++term) {
      const float* add = terms[term] + i;
      for (int64_t k = 0; k < kChunk; ++k) sum[k] += add[k];
    }
    std::memcpy(out + i, sum, sizeof(sum));
  }
  for (; i < count; ++i) {
    float sum = terms[0][i];
    for (size_t term = 1; term < terms.size(); ++term) sum += terms[term][i];
    out[i] = sum;
  }
}

class Reduction final : public GroupOperation {
 public:
  Reduction(GroupWires& wires, float* data, int64_t count);
  bool Advance() override;
  bool awaits_other_hosts() const override { return first_far_ || second_far_; }

 private:
  // One rank's contribution to this rank's slice, read out of that rank's outbox.
  struct NearTerm {
    int rank;
    NearIncoming* from;
    uint64_t begin;  // of the message
    bool left = false;
  };

  Range SliceOf(int rank) const;
  void StartNear();
  void StartFar();
  void StartSecondNear();
  void Sum();
  int64_t ReadyToSum();
  void SumPiece(int64_t n);
  void LeaveContributions();
  bool AdvanceSecondFar();

  GroupWires& wires_;
  const int self_;
  float* const data_;
  const int64_t count_;
  const SumShare share_;
  const Range slice_;   // of data, that this rank sums
  int64_t summed_ = 0;  // values of the slice

  std::optional<NearWrite> contribution_;
  std::vector<NearTerm> near_terms_;
  std::optional<NearWrite> sum_write_;
  std::vector<NearRead> sum_reads_;

  std::vector<int> far_ranks_;
  std::vector<float> far_terms_;  // (far_ranks_, slice)
  std::unique_ptr<FarBatch> first_far_, second_far_;
  uint64_t second_shot_ = 0;  // kGroup between hosts: its place in their order
  bool second_shot_open_ = false;
  std::vector<const float*> terms_;  // scratch: one per rank
};

Reduction::Reduction(GroupWires& wires, float* data, int64_t count)
    : wires_(wires),
      self_(wires.members.rank),
      data_(data),
      count_(count),
      share_(ShareOf(wires.members.hosts, wires.members.ranks_per_host_max,
                     count * static_cast<int64_t>(sizeof(float)))),
      slice_(SliceOf(self_)),
      terms_(wires.members.size()) {
  for (int rank = 0; rank < wires.members.size(); ++rank) {
    if (!wires.members.IsNear(rank)) far_ranks_.push_back(rank);
  }
  if (wires.near) StartNear();
  if (!far_ranks_.empty()) StartFar();
  if (wires.near && share_ != SumShare::kEach) StartSecondNear();
}

// What `rank` sums.
Range Reduction::SliceOf(int rank) const {
  const GroupMembers& members = wires_.members;
  switch (share_) {
    case SumShare::kEach:
      return {0, count_};
    case SumShare::kHost:
      return SplitEvenly(count_, members.ranks_on_host[rank], members.index_on_host[rank]);
    case SumShare::kGroup:
      return SplitEvenly(count_, members.size(), rank);
  }
  return {};
}

void Reduction::StartNear() {
  NearGroup& near = *wires_.near;
  const uint64_t bytes = count_ * sizeof(float);
  Hole own;  // what this rank sums itself
  if (share_ != SumShare::kEach) own = {slice_.begin * sizeof(float), slice_.end * sizeof(float)};
  contribution_.emplace(near.outbox, data_, bytes, own);
  for (int i = 0; i < near.size(); ++i) {
    if (wires_.members.near[i] == self_) continue;
    NearIncoming& from = near.outbox_of[i];
    near_terms_.push_back({wires_.members.near[i], &from, from.issued});
    from.issued += StreamSpace(bytes);
    wires_.bytes_sent += SliceOf(wires_.members.near[i]).size() * sizeof(float);
  }
  contribution_->Advance();
}

void Reduction::StartFar() {
  first_far_ = wires_.far->NewBatch();
  const int64_t own = slice_.size();
  far_terms_.resize(far_ranks_.size() * own);
  for (size_t i = 0; i < far_ranks_.size(); ++i) {
    first_far_->Recv(far_terms_.data() + i * own, own * sizeof(float), far_ranks_[i],
                     FarTag::kCollective);
  }
  // Starting behind one's own rank, so that the ranks do not all send to rank 0 first.
  const int size = wires_.members.size();
  for (int i = 1; i < size; ++i) {
    const int to = (self_ + i) % size;
    if (wires_.members.IsNear(to)) continue;
    const Range theirs = SliceOf(to);
    first_far_->Send(data_ + theirs.begin, theirs.size() * sizeof(float), to, FarTag::kCollective);
    wires_.bytes_sent += theirs.size() * sizeof(float);
  }
  second_shot_open_ = share_ == SumShare::kGroup;
  if (second_shot_open_) second_shot_ = wires_.second_shots_issued++;
}

void Reduction::StartSecondNear() {
  NearGroup& near = *wires_.near;
  sum_write_.emplace(near.sums, data_ + slice_.begin, slice_.size() * sizeof(float));
  for (int i = 0; i < near.size(); ++i) {
    if (wires_.members.near[i] == self_) continue;
    const Range theirs = SliceOf(wires_.members.near[i]);
    sum_reads_.emplace_back(near.sums_of[i], data_ + theirs.begin, theirs.size() * sizeof(float));
    wires_.bytes_sent += slice_.size() * sizeof(float);
  }
}

bool Reduction::Advance() {
  bool done = !contribution_ || contribution_->Advance();
  if (first_far_ && first_far_->Test()) first_far_.reset();
  if (!first_far_) Sum();
  done = done && summed_ == slice_.size() && !first_far_;
  for (const NearTerm& term : near_terms_) done = done && term.left;
  // The first exchange with other hosts still reads data_: sums may only come in after it.
  if (first_far_) return false;
  if (sum_write_ && !sum_write_->Advance(summed_ * sizeof(float))) done = false;
  for (NearRead& read : sum_reads_) {
    if (!read.Advance()) done = false;
  }
  if (second_shot_open_ && !AdvanceSecondFar()) done = false;
  return done;
}

void Reduction::Sum() {
  const int64_t before = summed_;
  while (const int64_t n = ReadyToSum()) SumPiece(n);
  if (summed_ == slice_.size()) return LeaveContributions();
  if (summed_ == before) return;
  for (NearTerm& term : near_terms_) term.from->Publish();
}

// Values of the slice that can be summed now. Passes over what lies before the slice.
int64_t Reduction::ReadyToSum() {
  int64_t n = slice_.size() - summed_;
  // In one exchange the sum replaces what the others must have been handed before.
  if (contribution_ && share_ == SumShare::kEach) {
    n = std::min<int64_t>(n, contribution_->done() / sizeof(float) - summed_);
  }
  for (NearTerm& term : near_terms_) {
    if (term.left) return 0;
    StreamReader& stream = term.from->stream;
    const uint64_t at = term.begin + (slice_.begin + summed_) * sizeof(float);
    if (stream.consumed() == term.begin && slice_.begin > 0) {
      stream.Consume(slice_.begin * sizeof(float));
      term.from->Publish();  // the writer may need the room for what this rank waits for
    }
    if (stream.consumed() != at) return 0;  // still at earlier messages
    n = std::min<int64_t>(n, stream.Ready() / sizeof(float));
  }
  return n;
}

void Reduction::SumPiece(int64_t n) {
  float* out = data_ + slice_.begin + summed_;
  terms_[self_] = out;
  for (const NearTerm& term : near_terms_) {
    terms_[term.rank] = reinterpret_cast<const float*>(term.from->stream.data());
  }
  for (size_t i = 0; i < far_ranks_.size(); ++i) {
    terms_[far_ranks_[i]] = far_terms_.data() + i * slice_.size() + summed_;
  }
  SumInOrder(terms_, out, n);
  for (NearTerm& term : near_terms_) term.from->stream.Consume(n * sizeof(float));
  summed_ += n;
}

// Passes over what the others will read of the contributions.
void Reduction::LeaveContributions() {
  const uint64_t bytes = count_ * sizeof(float);
  for (NearTerm& term : near_terms_) {
    if (term.left) continue;
    StreamReader& stream = term.from->stream;
    if (stream.consumed() < term.begin) continue;  // an empty slice, before its turn
    stream.Consume(term.begin + StreamSpace(bytes) - stream.consumed());
    term.from->Publish();
    term.left = true;
  }
}

bool Reduction::AdvanceSecondFar() {
  if (!second_far_) {
    // In the order of issue on every rank: these messages share a tag.
    if (summed_ < slice_.size() || wires_.second_shots_posted != second_shot_) return false;
    ++wires_.second_shots_posted;
    second_far_ = wires_.far->NewBatch();
    for (const int from : far_ranks_) {
      const Range theirs = SliceOf(from);
      second_far_->Recv(data_ + theirs.begin, theirs.size() * sizeof(float), from,
                        FarTag::kSecondShot);
    }
    for (const int to : far_ranks_) {
      second_far_->Send(data_ + slice_.begin, slice_.size() * sizeof(float), to,
                        FarTag::kSecondShot);
      wires_.bytes_sent += slice_.size() * sizeof(float);
    }
  }
  if (!second_far_->Test()) return false;
  second_far_.reset();
  second_shot_open_ = false;
  return true;
}

}  // namespace

std::unique_ptr<GroupOperation> MakeReduction(GroupWires& wires, float* data, int64_t count) {
  CHECK(count > 0 && wires.members.size() > 1);
  return std::make_unique<Reduction>(wires, data, count);
}

}  // namespace echelon
