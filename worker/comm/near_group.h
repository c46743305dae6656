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
struct NearIncoming {
  StreamReader stream;
  uint64_t issued = 0;
  Bell* writer = nullptr;

  void Publish() {
    if (stream.Publish()) writer->Ring();
  }
};

class NearGroup {
 public:
  static size_t SegmentBytes(int ranks);
  // seats (ranks): the bells of the group's near ranks; `self` is this rank's index among them.
  NearGroup(std::shared_ptr<SharedSegment> segment, const Progress& progress,
            const std::vector<int>& seats, int self);

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
};

class NearRead {
 public:
  NearRead(NearIncoming& from, void* into, uint64_t bytes);
  bool Advance();  // true when the whole message has been read

 private:
  NearIncoming* from_;
  std::byte* into_;
  uint64_t bytes_;
  uint64_t begin_;
  uint64_t done_ = 0;
};

}  // namespace echelon
