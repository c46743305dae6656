#include "worker/comm/near_group.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/check.h"
#include "common/strings.h"

namespace echelon {

namespace {
// Published in pieces of this size, so that readers begin while the writer goes on.
constexpr uint64_t kPieceBytes = 32 << 10;
}  // namespace

size_t NearGroup::SegmentBytes(int ranks) {
  const size_t outboxes = 2 * StreamBytes(ranks - 1, kOutboxBytes);
  const size_t mailboxes = (ranks - 1) * StreamBytes(1, kMailboxBytes);
  return ranks * (outboxes + mailboxes);
}

NearGroup::NearGroup(std::shared_ptr<SharedSegment> segment, const Progress& progress,
                     const std::vector<int>& ranks, const std::vector<int>& seats, int self)
    : segment_(std::move(segment)), size_(static_cast<int>(seats.size())) {
  CHECK(segment_->bytes() == SegmentBytes(size_));
  outbox_of.resize(size_);
  sums_of.resize(size_);
  mail_to.resize(size_);
  mail_from.resize(size_);
  const int others = size_ - 1;
  std::byte* memory = segment_->data();
  const auto take = [&memory](size_t bytes) { return std::exchange(memory, memory + bytes); };
  const auto bell = [&](int rank) { return &progress.BellOf(seats[rank]); };
  for (int writer = 0; writer < size_; ++writer) {
    // A writer's readers are the other ranks, in order.
    const int reader = self - (self > writer ? 1 : 0);
    for (const bool second : {false, true}) {
      std::byte* stream = take(StreamBytes(others, kOutboxBytes));
      if (writer == self) {
        NearOutgoing& mine = second ? sums : outbox;
        mine.stream = StreamWriter(stream, others, kOutboxBytes);
        for (int r = 0; r < size_; ++r) {
          if (r != self) mine.readers.push_back(bell(r));
        }
      } else {
        NearIncoming& theirs = (second ? sums_of : outbox_of)[writer];
        theirs.stream = StreamReader(stream, reader, others, kOutboxBytes);
        theirs.writer = bell(writer);
        theirs.rank = ranks[writer];
        theirs.reader = ranks[self];
      }
    }
    for (int to = 0; to < size_; ++to) {
      if (to == writer) continue;
      std::byte* stream = take(StreamBytes(1, kMailboxBytes));
      if (writer == self) {
        mail_to[to].stream = StreamWriter(stream, 1, kMailboxBytes);
        mail_to[to].readers = {bell(to)};
      } else if (to == self) {
        mail_from[writer].stream = StreamReader(stream, 0, 1, kMailboxBytes);
        mail_from[writer].writer = bell(writer);
        mail_from[writer].rank = ranks[writer];
        mail_from[writer].reader = ranks[self];
      }
    }
  }
}

NearMessage NearIncoming::Issue(uint64_t bytes) {
  const NearMessage message{issued, messages++};
  issued += StreamSpace(bytes);
  return message;
}

void NearIncoming::CheckSize(const NearMessage& message, uint64_t bytes) const {
  const uint64_t sent = stream.SizeOf(message.number);
  CHECK_MSG(sent == bytes, StrCat("rank ", rank, " of the group sent ", sent, " bytes where rank ",
                                  reader, " expects ", bytes));
}

NearWrite::NearWrite(NearOutgoing& to, const void* data, uint64_t bytes, Hole hole)
    : to_(&to),
      data_(static_cast<const std::byte*>(data)),
      bytes_(bytes),
      hole_(hole),
      begin_(to.issued) {
  to.issued += StreamSpace(bytes);
}

void NearWrite::WritePiece(uint64_t bytes) {
  const uint64_t end = done_ + bytes;
  const uint64_t hole_begin = std::clamp(hole_.begin, done_, end);
  const uint64_t hole_end = std::clamp(hole_.end, hole_begin, end);
  to_->stream.Write(data_ + done_, hole_begin - done_);
  to_->stream.Skip(hole_end - hole_begin);
  to_->stream.Write(data_ + hole_end, end - hole_end);
  done_ = end;
}

bool NearWrite::Advance(uint64_t ready) {
  if (done_ == bytes_) return true;
  StreamWriter& stream = to_->stream;
  if (stream.written() != begin_ + done_) return false;  // after earlier messages
  if (ready > 0 && !begun_) begun_ = stream.Begin(bytes_);
  while (begun_ && done_ < ready) {
    uint64_t piece = std::min({ready - done_, stream.Limit() - stream.written(), kPieceBytes});
    // Inside a message positions are whole lines, so that no value is cut in two.
    if (done_ + piece < bytes_) piece -= piece % kLineBytes;
    if (piece == 0) break;
    WritePiece(piece);
    if (done_ == bytes_) stream.Skip(StreamSpace(bytes_) - bytes_);
    stream.Publish();
    for (Bell* reader : to_->readers) reader->Ring();
  }
  return done_ == bytes_;
}

NearRead::NearRead(NearIncoming& from, void* into, uint64_t bytes)
    : from_(&from), into_(static_cast<std::byte*>(into)), bytes_(bytes) {
  if (bytes > 0) message_ = from.Issue(bytes);
}

bool NearRead::Advance() {
  if (done_ == bytes_) return true;
  StreamReader& stream = from_->stream;
  if (stream.consumed() != message_.begin + done_) return false;  // after earlier messages
  const uint64_t before = done_;
  while (done_ < bytes_) {
    const uint64_t piece = std::min(stream.Ready(), bytes_ - done_);
    if (piece == 0) break;
    if (done_ == 0) from_->CheckSize(message_, bytes_);
    std::memcpy(into_ + done_, stream.data(), piece);
    stream.Consume(piece);
    done_ += piece;
  }
  if (done_ == before) return false;
  if (done_ < bytes_) {
    from_->Publish();
    return false;
  }
  stream.Consume(StreamSpace(bytes_) - bytes_);
  from_->PublishEnd(message_);
  return true;
}

}  // namespace echelon
