#include "worker/comm/stream.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/check.h"

namespace echelon {

static_assert(std::atomic<uint64_t>::is_always_lock_free, "a lock would not be in shared memory");

StreamWriter::StreamWriter(std::byte* memory, int readers, size_t capacity)
    : position_(reinterpret_cast<StreamPosition*>(memory)),
      consumed_(position_ + 1),
      ring_(memory + StreamBytes(readers, 0)),
      readers_(readers),
      capacity_(capacity),
      limit_(capacity) {
  CHECK(capacity > 0 && capacity % (4 * kLineBytes) == 0);
}

uint64_t StreamWriter::Limit() {
  // The readers' lines are read only when what was seen of them is used up.
  if (limit_ < written_ + capacity_ / 2) {
    const uint64_t least = LeastConsumed();
    limit_ = least == UINT64_MAX ? written_ + capacity_ : least + capacity_;
  }
  return std::max(limit_, written_);
}

uint64_t StreamWriter::LeastConsumed() const {
  uint64_t least = UINT64_MAX;
  for (int r = 0; r < readers_; ++r) least = std::min(least, consumed_[r].value.load());
  return least;
}

bool StreamWriter::Begin(uint64_t bytes) {
  uint64_t& end = ends_[messages_ % StreamPosition::kSizes];
  if (least_ < end) least_ = LeastConsumed();
  if (least_ < end) return false;
  end = written_ + StreamSpace(bytes);
  position_->sizes[messages_++ % StreamPosition::kSizes].store(bytes, std::memory_order_relaxed);
  return true;
}

void StreamWriter::Write(const std::byte* data, uint64_t bytes) {
  while (bytes > 0) {
    const uint64_t at = written_ % capacity_;
    const uint64_t piece = std::min<uint64_t>(bytes, capacity_ - at);
    std::memcpy(ring_ + at, data, piece);
    data += piece;
    bytes -= piece;
    written_ += piece;
  }
}

StreamReader::StreamReader(std::byte* memory, int reader, int readers, size_t capacity)
    : written_(reinterpret_cast<StreamPosition*>(memory)),
      position_(reinterpret_cast<StreamPosition*>(memory) + 1 + reader),
      ring_(memory + StreamBytes(readers, 0)),
      capacity_(capacity) {}

uint64_t StreamReader::Ready(uint64_t wanted) {
  if (seen_ < consumed_ + wanted) seen_ = written_->value.load();
  return std::min<uint64_t>(seen(), capacity_ - consumed_ % capacity_);
}

void StreamReader::Copy(std::byte* into, uint64_t bytes) const {
  const uint64_t whole = std::min<uint64_t>(bytes, capacity_ - consumed_ % capacity_);
  std::memcpy(into, data(), whole);
  std::memcpy(into + whole, ring_, bytes - whole);
}

bool StreamReader::Publish() {
  position_->value.store(consumed_);
  const uint64_t quarter = capacity_ / 4;
  return std::exchange(published_, consumed_) / quarter != consumed_ / quarter;
}

}  // namespace echelon
