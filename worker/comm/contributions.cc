#include "worker/comm/contributions.h"

#include <algorithm>

namespace echelon {

Contributions::Contributions(GroupWires& wires, const float* data, int64_t count,
                             std::span<const Range> slices)
    : wires_(wires),
      self_(wires.members.rank),
      data_(data),
      count_(count),
      slice_(slices[self_]),
      terms_(slices.size()) {
  for (int rank = 0; rank < wires.members.size(); ++rank) {
    if (!wires.members.IsNear(rank)) far_ranks_.push_back(rank);
  }
  if (wires.near) {
    for (const int rank : wires.members.near) {
      if (rank != self_) wires_.bytes_sent += slices[rank].size() * sizeof(float);
    }
    StartNear();
  }
  if (!far_ranks_.empty()) StartFar(slices);
}

void Contributions::StartNear() {
  NearGroup& near = *wires_.near;
  const uint64_t bytes = count_ * sizeof(float);
  Hole own;  // what this rank alone sums
  if (slice_.size() < count_) own = {slice_.begin * sizeof(float), slice_.end * sizeof(float)};
  write_.emplace(near.outbox, data_, bytes, own);
  for (int i = 0; i < near.size(); ++i) {
    if (wires_.members.near[i] == self_) continue;
    NearIncoming& from = near.outbox_of[i];
    near_.push_back({wires_.members.near[i], &from, from.Issue(bytes)});
  }
  write_->Advance();
}

void Contributions::StartFar(std::span<const Range> slices) {
  far_ = wires_.far->NewBatch();
  const int64_t own = slice_.size();
  far_values_ = std::make_unique_for_overwrite<float[]>(far_ranks_.size() * own);
  for (size_t i = 0; i < far_ranks_.size(); ++i) {
    far_->Recv(far_values_.get() + i * own, own * sizeof(float), far_ranks_[i],
               FarTag::kCollective);
  }
  // Starting behind one's own rank, so that the ranks do not all send to rank 0 first.
  const int size = wires_.members.size();
  for (int i = 1; i < size; ++i) {
    const int to = (self_ + i) % size;
    if (wires_.members.IsNear(to)) continue;
    far_->Send(data_ + slices[to].begin, slices[to].size() * sizeof(float), to,
               FarTag::kCollective);
    wires_.bytes_sent += slices[to].size() * sizeof(float);
  }
}

void Contributions::Advance() {
  if (write_) write_->Advance();
  if (far_ && far_->Test()) far_.reset();
}

int64_t Contributions::handed_near() const {
  return write_ ? static_cast<int64_t>(write_->done() / sizeof(float)) : count_;
}

Contributions::Ready Contributions::Look(int64_t unit) {
  if (far_) return {};
  int64_t count = slice_.size() - passed_;
  for (Near& near : near_) count = std::min(count, LookNear(near, unit, count));
  if (count == 0) return {};
  const int64_t at = slice_.begin + passed_;
  terms_[self_] = data_ + at;
  for (size_t i = 0; i < far_ranks_.size(); ++i) {
    terms_[far_ranks_[i]] = far_values_.get() + i * slice_.size() + passed_;
  }
  return {count, terms_};
}

// How many of the next `count` values of one rank lie ready. Passes over what lies before the
// slice.
int64_t Contributions::LookNear(Near& near, int64_t unit, int64_t count) {
  if (near.left) return 0;
  StreamReader& stream = near.from->stream;
  if (stream.consumed() == near.message.begin && slice_.begin > 0) {
    stream.Consume(slice_.begin * sizeof(float));
    near.from->Publish();  // the writer may need the room for what this rank waits for
  }
  if (stream.consumed() != near.message.begin + (slice_.begin + passed_) * sizeof(float)) {
    return 0;  // still at earlier messages
  }
  const uint64_t unit_bytes = unit * sizeof(float);
  const int64_t whole = static_cast<int64_t>(stream.Ready(unit_bytes) / unit_bytes) * unit;
  if (!near.checked && stream.seen() > 0) {
    near.from->CheckSize(near.message, count_ * sizeof(float));
    near.checked = true;
  }
  terms_[near.rank] = reinterpret_cast<const float*>(stream.data());
  if (whole > 0 || stream.seen() < unit_bytes) return std::min(whole, count);
  near.cut.resize(unit);
  stream.Copy(reinterpret_cast<std::byte*>(near.cut.data()), unit_bytes);
  terms_[near.rank] = near.cut.data();
  return std::min(unit, count);
}

bool Contributions::AllLieReady() {
  const uint64_t end = slice_.end * sizeof(float);
  return !far_ && std::all_of(near_.begin(), near_.end(), [&](Near& near) {
    StreamReader& stream = near.from->stream;
    if (near.left || stream.consumed() >= near.message.begin + end) return true;
    const uint64_t wanted = near.message.begin + end - stream.consumed();
    stream.Ready(wanted);
    return stream.seen() >= wanted;
  });
}

void Contributions::Pass(int64_t count) {
  for (Near& near : near_) near.from->stream.Consume(count * sizeof(float));
  passed_ += count;
}

void Contributions::Release() {
  for (Near& near : near_) {
    if (near.left) continue;
    if (ended()) {
      LeaveMessage(near);
    } else {
      near.from->Publish();
    }
  }
}

// Passes over what the others will read of a message.
void Contributions::LeaveMessage(Near& near) {
  StreamReader& stream = near.from->stream;
  if (stream.consumed() < near.message.begin) return;  // an empty slice, before its turn
  stream.Consume(near.message.begin + StreamSpace(count_ * sizeof(float)) - stream.consumed());
  near.from->PublishEnd(near.message);
  near.left = true;
}

bool Contributions::left() const {
  return ended() &&
         std::all_of(near_.begin(), near_.end(), [](const Near& near) { return near.left; });
}

}  // namespace echelon
