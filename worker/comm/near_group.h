#pragma once
// NearGroup: the streams among a group's ranks of one host, as one of them sees them. Every rank
// has an outbox that all the others read (collectives), a second one for sums on their way back (a
// queue of its own: a sum is ready later than the next collective's contribution), and a mailbox
// for each other rank. NearWrite and NearRead move one message piece by piece, as the streams
// allow; messages of a stream are written and read in the order in which these objects were made.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "worker/comm/progress.h"
#include "worker/comm/shared_segment.h"
#include "worker/comm/stream.h"

namespace echelon {

// A rank's outbox: 1 MiB is 455 decode rows of 576 floats, and half of a core's second-level cache;
// what is larger passes through in pieces.
inline constexpr size_t kOutboxBytes = size_t{1} << 20;
inline constexpr size_t kMailboxBytes = size_t{256} << 10;  // from one rank to another

struct NearOutgoing {
  StreamWriter stream;
  uint64_t issued = 0;         // position behind the last message issued
  std::vector<Bell*> readers;  // to be rung
};
// A message that comes in: where it begins, and which one of its stream it is.
struct NearMessage {
  uint64_t begin = 0, number = 0;
};
struct NearIncoming {
  StreamReader stream;
  uint64_t issued = 0;
  uint64_t messages = 0;  // issued
  Bell* writer = nullptr;
  int rank = 0, reader = 0;  // of the group: the writer's, this one

  // The next message, of `bytes` > 0.
  NearMessage Issue(uint64_t bytes);
  // Ends the process where the writer's message has another size. Its first byte is there.
  void CheckSize(const NearMessage& message, uint64_t bytes) const;
  void Publish() {
    if (stream.Publish()) writer->Ring();
  }
  // The last byte of a message was consumed. A writer that waits for a message's place is
  // kSizes = 7 ahead: every fourth wakes it.
  void PublishEnd(const NearMessage& message) {
    if (stream.Publish() || message.number % 4 == 0) writer->Ring();
  }
};

class NearGroup {
 public:
  static size_t SegmentBytes(int ranks);
  // ranks: of the group, the near ones; seats (ranks): their bells; `self` is this rank's index
  // among them.
  NearGroup(std::shared_ptr<SharedSegment> segment, const Progress& progress,
            const std::vector<int>& ranks, const std::vector<int>& seats, int self);

  int size() const { return size_; }
  NearOutgoing outbox, sums;
  std::vector<NearIncoming> outbox_of, sums_of;  // (ranks); own unused
  std::vector<NearOutgoing> mail_to;             // (ranks)
  std::vector<NearIncoming> mail_from;           // (ranks)

 private:
  const std::shared_ptr<SharedSegment> segment_;
  const int size_;
};

// The bytes [begin, end) of a message, which nobody reads.
struct Hole {
  uint64_t begin = 0, end = 0;
};

class NearWrite {
 public:
  NearWrite(NearOutgoing& to, const void* data, uint64_t bytes, Hole hole = {});
  uint64_t done() const { return done_; }
  // Writes what fits of the first `ready` bytes; true when the whole message is written.
  bool Advance(uint64_t ready);
  bool Advance() { return Advance(bytes_); }

 private:
  void WritePiece(uint64_t bytes);

  NearOutgoing* to_;
  const std::byte* data_;
  uint64_t bytes_;
  Hole hole_;
  uint64_t begin_;
  uint64_t done_ = 0;
  bool begun_ = false;
};

class NearRead {
 public:
  NearRead(NearIncoming& from, void* into, uint64_t bytes);
  bool Advance();  // true when the whole message has been read

 private:
  NearIncoming* from_;
  std::byte* into_;
  uint64_t bytes_;
  NearMessage message_;
  uint64_t done_ = 0;
};

}  // namespace echelon
