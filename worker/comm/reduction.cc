#include "worker/comm/reduction.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/parallel_layout.h"
#include "worker/comm/contributions.h"

namespace echelon {

namespace {

// out[i] = terms[0][i] + terms[1][i] + ...; out may be one of the terms.
void SumInOrder(std::span<const float* const> terms, float* out, int64_t count) {
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

// What each rank sums (ranks).
std::vector<Range> SlicesOf(const GroupMembers& members, SumShare share, int64_t count) {
  std::vector<Range> slices;
  for (int rank = 0; rank < members.size(); ++rank) {
    switch (share) {
      case SumShare::kEach:
        slices.push_back({0, count});
        break;
      case SumShare::kHost:
        slices.push_back(
            SplitEvenly(count, members.ranks_on_host[rank], members.index_on_host[rank]));
        break;
      case SumShare::kGroup:
        slices.push_back(SplitEvenly(count, members.size(), rank));
        break;
    }
  }
  return slices;
}

// Sums what lies ready of this rank's slice, up to its value `until`, to where the slice is in
// data.
void SumReady(Contributions& from, float* slice, int64_t until) {
  const int64_t before = from.passed();
  for (;;) {
    const Contributions::Ready ready = from.Look(1);
    const int64_t count = std::min(ready.count, until - from.passed());
    if (count <= 0) break;
    SumInOrder(ready.terms, slice + from.passed(), count);
    from.Pass(count);
  }
  // An empty slice ends before it begins: perhaps not yet at the messages to be left.
  if (from.passed() > before || from.ended()) from.Release();
}

// Every rank sums everything.
class WholeReduction final : public Reduction {
 public:
  WholeReduction(GroupWires& wires, float* data, int64_t rows, int64_t cols)
      : data_(data),
        cols_(cols),
        contributions_(wires, data, rows * cols,
                       SlicesOf(wires.members, SumShare::kEach, rows * cols)) {}

  bool Advance() override {
    contributions_.Advance();
    // The sum replaces what the others must have been handed before.
    if (into_data_) SumReady(contributions_, data_, contributions_.handed_near());
    return contributions_.left() && contributions_.handed_over();
  }
  bool awaits_other_hosts() const override { return contributions_.awaits_other_hosts(); }
  bool HasArrived() override {
    return contributions_.handed_over() && contributions_.AllLieReady();
  }
  void SumIntoData() override {
    CHECK(!rows_taken_);
    into_data_ = true;
  }

  SumRows TakeRows() override {
    CHECK(!into_data_);
    rows_taken_ = true;
    if (handed_out_ > 0) {
      contributions_.Pass(std::exchange(handed_out_, 0));
      contributions_.Release();
    }
    const Contributions::Ready ready = contributions_.Look(cols_);
    handed_out_ = ready.count;
    const int64_t begin = contributions_.passed() / cols_;
    return {begin, begin + ready.count / cols_, ready.terms};
  }

 private:
  float* const data_;
  const int64_t cols_;
  bool into_data_ = false, rows_taken_ = false;
  int64_t handed_out_ = 0;  // values that the taker of rows reads at the moment
  Contributions contributions_;
};

// Ranks sum a slice each and hand their sums on.
class SharedReduction final : public Reduction {
 public:
  SharedReduction(GroupWires& wires, SumShare share, float* data, int64_t rows, int64_t cols)
      : wires_(wires),
        data_(data),
        rows_(rows),
        slices_(SlicesOf(wires.members, share, rows * cols)),
        slice_(slices_[wires.members.rank]),
        contributions_(wires, data, rows * cols, slices_) {
    if (wires.near) StartNear();
    sums_travel_ = share == SumShare::kGroup && wires.members.hosts > 1;
    if (sums_travel_) turn_ = wires.second_shots_issued++;
  }

  bool Advance() override {
    if (!summed_ && !AdvanceSum()) return false;
    summed_ = true;
    return into_data_ || rows_taken_;
  }
  bool awaits_other_hosts() const override {
    return contributions_.awaits_other_hosts() || far_ != nullptr;
  }
  bool HasArrived() override { return summed_; }
  void SumIntoData() override { into_data_ = true; }
  SumRows TakeRows() override {
    rows_taken_ = handed_out_;
    if (!summed_ || rows_taken_) return {rows_, rows_, {}};
    handed_out_ = true;
    return {0, rows_, {&sum_, 1}};
  }

 private:
  void StartNear() {
    NearGroup& near = *wires_.near;
    sum_write_.emplace(near.sums, data_ + slice_.begin, slice_.size() * sizeof(float));
    for (int i = 0; i < near.size(); ++i) {
      const int rank = wires_.members.near[i];
      if (rank == wires_.members.rank) continue;
      const Range& theirs = slices_[rank];
      sum_reads_.emplace_back(near.sums_of[i], data_ + theirs.begin, theirs.size() * sizeof(float));
      wires_.bytes_sent += slice_.size() * sizeof(float);
    }
  }

  bool AdvanceSum() {
    contributions_.Advance();
    // The exchange with other hosts still reads data_: sums may only come in after it.
    if (contributions_.awaits_other_hosts()) return false;
    SumReady(contributions_, data_ + slice_.begin, slice_.size());
    bool done = contributions_.left() && contributions_.handed_over();
    if (sum_write_ && !sum_write_->Advance(contributions_.passed() * sizeof(float))) done = false;
    for (NearRead& read : sum_reads_) {
      if (!read.Advance()) done = false;
    }
    return (!sums_travel_ || AdvanceFar()) && done;
  }

  // The sums to and from other hosts.
  bool AdvanceFar() {
    if (!far_) {
      // In the order of issue on every rank: these messages share a tag.
      if (contributions_.passed() < slice_.size() || wires_.second_shots_posted != turn_) {
        return false;
      }
      ++wires_.second_shots_posted;
      PostFar();
    }
    if (!far_->Test()) return false;
    far_.reset();
    sums_travel_ = false;
    return true;
  }

  void PostFar() {
    far_ = wires_.far->NewBatch();
    const GroupMembers& members = wires_.members;
    for (int from = 0; from < members.size(); ++from) {
      if (members.IsNear(from)) continue;
      far_->Recv(data_ + slices_[from].begin, slices_[from].size() * sizeof(float), from,
                 FarTag::kSecondShot);
    }
    for (int to = 0; to < members.size(); ++to) {
      if (members.IsNear(to)) continue;
      far_->Send(data_ + slice_.begin, slice_.size() * sizeof(float), to, FarTag::kSecondShot);
      wires_.bytes_sent += slice_.size() * sizeof(float);
    }
  }

  GroupWires& wires_;
  float* const data_;
  const float* const sum_ = data_;  // the one term
  const int64_t rows_;
  const std::vector<Range> slices_;  // (ranks)
  const Range slice_;                // of this rank
  Contributions contributions_;
  std::optional<NearWrite> sum_write_;
  std::vector<NearRead> sum_reads_;
  bool sums_travel_ = false;  // (still) between hosts
  uint64_t turn_ = 0;         // of the reductions whose sums do
  std::unique_ptr<FarBatch> far_;
  bool summed_ = false, into_data_ = false, handed_out_ = false, rows_taken_ = false;
};

}  // namespace

std::unique_ptr<Reduction> MakeReduction(GroupWires& wires, float* data, int64_t rows,
                                         int64_t cols) {
  CHECK(rows > 0 && cols > 0);
  const SumShare share = ShareOf(wires.members.hosts, wires.members.ranks_per_host_max,
                                 rows * cols * static_cast<int64_t>(sizeof(float)));
  if (share == SumShare::kEach) return std::make_unique<WholeReduction>(wires, data, rows, cols);
  return std::make_unique<SharedReduction>(wires, share, data, rows, cols);
}

}  // namespace echelon
