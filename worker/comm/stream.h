#pragma once
// A stream of bytes in shared memory: one rank writes, one or several others of the host read, each
// at its own pace. Positions count bytes since the beginning and only grow; the memory is a ring of
// `capacity` bytes. The writer publishes `written`, each reader `consumed`; a reader may pass over
// bytes it does not need, even before they are written. Every message begins on a cache line
// (StreamSpace). Lock-free; one thread per end.

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace echelon {

inline constexpr size_t kLineBytes = 64;

// What a message of `bytes` takes in a stream.
constexpr uint64_t StreamSpace(uint64_t bytes) {
  return (bytes + kLineBytes - 1) / kLineBytes * kLineBytes;
}

struct alignas(kLineBytes) StreamPosition {
  std::atomic<uint64_t> value;
  // The writer's line alone: bytes of its last messages, message m at m % kSizes. A reader, who has
  // to fetch the line anyway, so sees what it is sent; a word in front of each message would be a
  // line more of it.
  static constexpr int kSizes = 7;
  std::atomic<uint64_t> sizes[kSizes];
};
static_assert(sizeof(StreamPosition) == kLineBytes);

// Layout of one stream: written, consumed of each reader, the ring.
constexpr size_t StreamBytes(int readers, size_t capacity) {
  return (1 + static_cast<size_t>(readers)) * sizeof(StreamPosition) + capacity;
}

class StreamWriter {
 public:
  StreamWriter() = default;
  // `memory`: StreamBytes(readers, capacity), zero at first; capacity a multiple of kLineBytes.
  StreamWriter(std::byte* memory, int readers, size_t capacity);

  uint64_t written() const { return written_; }
  // The end of what may be written now; at least written().
  uint64_t Limit();
  // Before the first byte of a message. False: one of the readers is kSizes messages behind.
  bool Begin(uint64_t bytes);
  // Copies; the caller publishes. Positions from written() to Limit().
  void Write(const std::byte* data, uint64_t bytes);
  void Skip(uint64_t bytes) { written_ += bytes; }  // leaves what no reader will look at
  void Publish() { position_->value.store(written_); }

 private:
  uint64_t LeastConsumed() const;

  StreamPosition* position_ = nullptr;
  StreamPosition* consumed_ = nullptr;  // (readers)
  std::byte* ring_ = nullptr;
  int readers_ = 0;
  size_t capacity_ = 0;
  uint64_t written_ = 0;
  uint64_t limit_ = 0;  // last seen
  uint64_t messages_ = 0;
  uint64_t ends_[StreamPosition::kSizes] = {};  // of the last messages
  uint64_t least_ = 0;                          // consumed by all readers, last seen
};

class StreamReader {
 public:
  StreamReader() = default;
  // `reader`: which of the stream's readers this is.
  StreamReader(std::byte* memory, int reader, int readers, size_t capacity);

  uint64_t consumed() const { return consumed_; }
  // What the writer says of message `number`, of which Ready() has seen a byte.
  uint64_t SizeOf(uint64_t number) const {
    return written_->sizes[number % StreamPosition::kSizes].load(std::memory_order_relaxed);
  }
  // Bytes that lie ready in one piece at consumed(). Looks for more where fewer than `wanted` were
  // seen.
  uint64_t Ready(uint64_t wanted = 1);
  const std::byte* data() const { return ring_ + consumed_ % capacity_; }
  // All that Ready() has seen, beyond the ring's end too.
  uint64_t seen() const { return seen_ > consumed_ ? seen_ - consumed_ : 0; }
  // The first `bytes` of them; at most a ring.
  void Copy(std::byte* into, uint64_t bytes) const;
  void Consume(uint64_t bytes) { consumed_ += bytes; }
  // True each time another quarter of the ring has become free: often enough to wake a writer that
  // found no room, for it left a whole ring to be read.
  bool Publish();

 private:
  const StreamPosition* written_ = nullptr;
  StreamPosition* position_ = nullptr;
  const std::byte* ring_ = nullptr;
  size_t capacity_ = 1;
  uint64_t consumed_ = 0;
  uint64_t published_ = 0;
  uint64_t seen_ = 0;  // of written
};

}  // namespace echelon
