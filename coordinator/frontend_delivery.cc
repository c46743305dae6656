// The second half of Frontend: the token log goes out.

#include <algorithm>

#include "coordinator/frontend.h"

namespace echelon {

namespace {

// Of one `tokens` event, about: small enough that a full send queue is bounded, large enough that
// coalescing pays.
constexpr int64_t kEventBytesMax = 64 << 10;
// How long to leave a client alone that took nothing, doubling.
constexpr int64_t kRetryUsMin = 2'000;
constexpr int64_t kRetryUsMax = 100'000;

int64_t EntryBytes(const TokenLogEntry& entry) {
  // An id takes up to 8 characters, a {"id":..,"logprob":..} entry about 40.
  return 8 + static_cast<int64_t>(entry.text.size()) + 40 * static_cast<int64_t>(entry.top.size());
}

}  // namespace

void Frontend::Count(Stream& stream) {
  const auto& log = stream.sequence->log();
  if (stream.abandoned) return;
  for (; stream.counted < static_cast<int32_t>(log.size()); ++stream.counted) {
    const int64_t bytes = EntryBytes(log[stream.counted]);
    stream.undelivered += bytes;
    undelivered_total_ += bytes;
  }
}

void Frontend::Discount(Stream& stream, int32_t from, int32_t to) {
  for (int32_t i = from; i < to; ++i) {
    const int64_t bytes = std::min(EntryBytes(stream.sequence->log()[i]), stream.undelivered);
    stream.undelivered -= bytes;
    undelivered_total_ -= bytes;
  }
}

void Frontend::RestartAt(Stream& stream, int32_t next) {
  undelivered_total_ -= stream.undelivered;
  stream.undelivered = 0;
  stream.abandoned = false;
  stream.accepted_sent = stream.end_sent = false;
  stream.next = stream.counted = next;
  Count(stream);
}

bool Frontend::SendEvent(const std::string& id, Stream& stream, std::string_view type,
                         std::string_view body) {
  Client& client = clients_.at(stream.identity);
  const SendResult sent = transport_.Send(stream.identity, {kClientProtocol, type, id, body});
  if (sent == SendResult::kSent) {
    client.blocked_since_us = 0;
    return true;
  }
  if (sent == SendResult::kGone) {
    Detach(id, stream);
    return false;
  }
  const int64_t now = clock_.NowUs();
  if (client.blocked_since_us == 0) {
    client.blocked_since_us = now;
    client.retry_wait_us = kRetryUsMin;
  } else {
    client.retry_wait_us = std::min(2 * client.retry_wait_us, kRetryUsMax);
  }
  client.retry_us = now + client.retry_wait_us;
  return false;
}

bool Frontend::SendTokens(const std::string& id, Stream& stream) {
  const Sequence& sequence = *stream.sequence;
  const int32_t size = sequence.generated();
  int32_t end = stream.next;
  for (int64_t bytes = 0; end < size; ++end) {
    bytes += EntryBytes(sequence.log()[end]);
    if (sequence.request().stream && bytes > kEventBytesMax && end > stream.next) break;
  }
  if (!SendEvent(id, stream, "tokens", TokensBody(sequence, stream.next, end))) return false;
  Discount(stream, stream.next, end);
  stream.next = end;
  return true;
}

bool Frontend::Deliver(const std::string& id, Stream& stream) {
  if (stream.identity.empty() || stream.end_sent) return true;  // Attach makes it dirty again
  const Client& client = clients_.at(stream.identity);
  if (client.blocked_since_us != 0 && clock_.NowUs() < client.retry_us) return false;
  const Sequence& sequence = *stream.sequence;
  if (!stream.accepted_sent && !stream.accepted_body.empty()) {
    if (!SendEvent(id, stream, "accepted", stream.accepted_body)) return false;
    stream.accepted_sent = true;
  }
  if (sequence.request().stream || sequence.finished()) {
    while (stream.next < sequence.generated()) {
      if (!SendTokens(id, stream)) return false;
    }
  }
  if (!sequence.finished()) return true;
  const bool sent =
      sequence.error()
          ? SendEvent(id, stream, "error", ErrorBody(*sequence.error(), sequence.retry_after_ms()))
          : SendEvent(id, stream, "done", DoneBody(sequence, facts_));
  if (!sent) return false;
  stream.end_sent = true;
  Detach(id, stream);
  return true;
}

void Frontend::Flush() {
  for (auto it = dirty_.begin(); it != dirty_.end();) {
    const auto found = streams_.find(*it);
    const bool done =
        found == streams_.end() || Deliver(*it, found->second) || found->second.identity.empty();
    it = done ? dirty_.erase(it) : std::next(it);
  }
}

}  // namespace echelon
