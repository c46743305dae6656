#include "coordinator/frontend.h"

#include <algorithm>
#include <limits>

#include "common/strings.h"

namespace echelon {

namespace {

// Taken in one turn, so that a flood does not hold up the steps: so many messages, and none more
// once they have so many bytes together. (4 MB of hostile JSON take 0.3 s to parse.)
constexpr int kMessagesPerPoll = 64;
constexpr size_t kBytesPerPoll = size_t{1} << 20;
// When a client that found no place may try again.
constexpr int64_t kClientsRetryAfterMs = 1000;

}  // namespace

Frontend::Frontend(FrontendSettings settings, SubmitLimits limits, ClientTransport& transport,
                   const Clock& clock)
    : settings_(std::move(settings)), limits_(limits), transport_(transport), clock_(clock) {}

void Frontend::Poll(const std::function<void(FrontendEvent)>& handle) {
  std::vector<FrontendEvent> events;
  const auto hand_on = [&] {
    for (FrontendEvent& event : events) handle(std::move(event));
    events.clear();
  };
  ClientMessage message;
  size_t bytes = 0;
  for (int i = 0; i < kMessagesPerPoll && bytes < kBytesPerPoll && transport_.Receive(message);
       ++i) {
    ++counters_.messages;
    for (const std::string& part : message.parts) bytes += part.size();
    Handle(message, events);
    hand_on();
  }
  CheckReaders(events);
  CheckUndelivered(events);
  hand_on();
}

void Frontend::Handle(ClientMessage& message, std::vector<FrontendEvent>& events) {
  const auto refuse = [&](std::string_view id, std::string text, std::string field) {
    ++counters_.refused_messages;
    Refuse(message.identity, std::string(id), InvalidArgument(std::move(text), std::move(field)));
  };
  if (message.part_count != 4) {
    return refuse("", StrCat("a message has 4 parts, not ", message.part_count), "");
  }
  const std::string& type = message.parts[1];
  const std::string& id = message.parts[2];
  if (message.parts[0] != kClientProtocol) {
    return refuse(
        IsValidRequestId(id) ? id : "",
        StrCat("part 0 must be ", kClientProtocol, ": this service speaks no other version"), "");
  }
  const bool needs_id = type == "submit" || type == "cancel" || type == "resume";
  if ((needs_id || !id.empty()) && !IsValidRequestId(id)) {
    return refuse(
        "",
        StrCat("the request id must be 1 to ", kRequestIdBytesMax, " bytes of A-Z a-z 0-9 . _ : -"),
        "id");
  }
  if (type == "submit") return HandleSubmit(message, events);
  if (type == "resume") return HandleResume(message);
  if (type != "cancel" && type != "status" && type != "ping") {
    return refuse(id, "unknown type: submit, cancel, resume, status and ping are known", "");
  }
  const Status body = ParseEmpty(message.parts[3]);
  if (!body.ok()) return refuse(id, body.error().message, "");
  if (type == "cancel") return HandleCancel(message, events);
  if (type == "ping") {
    Reply(message.identity, "pong", id, "{}");
    return;
  }
  FrontendEvent event;
  event.kind = FrontendEvent::Kind::kStatus;
  event.identity = message.identity;
  event.request.id = id;
  events.push_back(std::move(event));
}

void Frontend::HandleSubmit(const ClientMessage& message, std::vector<FrontendEvent>& events) {
  const std::string& id = message.parts[2];
  Result<Request> request = ParseSubmit(id, message.parts[3], limits_);
  if (!request.ok()) return Refuse(message.identity, id, request.error());
  const auto found = streams_.find(id);
  if (found != streams_.end()) {
    Stream& stream = found->second;
    if (stream.sequence->request().body_hash != request->body_hash) {
      return Refuse(message.identity, id,
                    InvalidArgument("this id belongs to a request with another body", "id"));
    }
    if (stream.sequence->finish_reason() != FinishReason::kError) {
      if (!HasRoomFor(message.identity, id)) return;
      Attach(id, stream, message.identity);
      RestartAt(stream, 0);
      dirty_.insert(id);
      return;
    }  // it failed: this is a new try
  }
  if (!HasRoomFor(message.identity, id)) return;
  FrontendEvent event;
  event.kind = FrontendEvent::Kind::kSubmit;
  event.identity = message.identity;
  event.request = std::move(request).value();
  events.push_back(std::move(event));
}

void Frontend::HandleResume(const ClientMessage& message) {
  const std::string& id = message.parts[2];
  const Result<int64_t> seq = ParseResume(message.parts[3]);
  if (!seq.ok()) return Refuse(message.identity, id, seq.error());
  const auto found = streams_.find(id);
  if (found == streams_.end()) {
    return Refuse(message.identity, id,
                  NotFound(StrCat("no request ", id, ": unknown, or its log's time (",
                                  settings_.resume_ttl_ms, " ms after the end) is over")));
  }
  Stream& stream = found->second;
  if (*seq > stream.sequence->generated()) {
    return Refuse(
        message.identity, id,
        InvalidArgument(
            StrCat("seq ", *seq, " is past the log's end, ", stream.sequence->generated()), "seq"));
  }
  if (!HasRoomFor(message.identity, id)) return;
  Attach(id, stream, message.identity);
  RestartAt(stream, static_cast<int32_t>(*seq));
  dirty_.insert(id);
}

void Frontend::HandleCancel(const ClientMessage& message, std::vector<FrontendEvent>& events) {
  const std::string& id = message.parts[2];
  const auto found = streams_.find(id);
  if (found == streams_.end() || found->second.identity != message.identity) {
    return Refuse(message.identity, id,
                  NotFound(StrCat("this client has no running request ", id)));
  }
  FrontendEvent event;
  event.kind = FrontendEvent::Kind::kCancel;
  event.request.id = id;
  events.push_back(std::move(event));
}

void Frontend::Refuse(const std::string& identity, const std::string& id, const Error& error,
                      std::optional<int64_t> retry_after_ms) {
  CountRefused(error.code);
  Reply(identity, "error", id, ErrorBody(error, retry_after_ms));
}

void Frontend::SendStatus(const std::string& identity, const std::string& id, const Json& status) {
  Reply(identity, "status", id, status.Dump());
}

bool Frontend::Reply(const std::string& identity, std::string_view type, std::string_view id,
                     std::string_view body) {
  if (transport_.Send(identity, {kClientProtocol, type, id, body}) == SendResult::kSent)
    return true;
  ++counters_.dropped_replies;
  return false;
}

void Frontend::Open(const std::string& identity, const Sequence* sequence) {
  const std::string& id = sequence->request().id;
  Stream stream;
  stream.sequence = sequence;
  stream.detached_since_us = clock_.NowUs();
  Stream& placed = streams_.insert_or_assign(id, std::move(stream)).first->second;
  Attach(id, placed, identity);
}

void Frontend::Accept(const std::string& id, std::string accepted_body) {
  streams_.at(id).accepted_body = std::move(accepted_body);
  dirty_.insert(id);
}

void Frontend::Notify(const std::string& id) {
  const auto found = streams_.find(id);
  if (found == streams_.end()) return;
  Count(found->second);
  dirty_.insert(id);
}

void Frontend::Close(const std::string& id) {
  const auto found = streams_.find(id);
  if (found == streams_.end()) return;
  Detach(id, found->second);
  undelivered_total_ -= found->second.undelivered;
  streams_.erase(found);
  dirty_.erase(id);
}

bool Frontend::Delivered(const std::string& id) const {
  const auto found = streams_.find(id);
  return found == streams_.end() || found->second.identity.empty();
}

// False, and the refusal is sent, where one more client would be too many.
bool Frontend::HasRoomFor(const std::string& identity, const std::string& id) {
  if (clients_.count(identity) > 0) return true;
  if (static_cast<int64_t>(clients_.size()) < settings_.clients_max) return true;
  Refuse(identity, id,
         ResourceExhausted(StrCat("the service has its limit of ", settings_.clients_max,
                                  " clients with requests (frontend.clients_max)")),
         kClientsRetryAfterMs);
  return false;
}

void Frontend::Attach(const std::string& id, Stream& stream, const std::string& identity) {
  if (stream.identity == identity) return;
  Detach(id, stream);
  stream.identity = identity;
  clients_[identity].streams.insert(id);
}

void Frontend::Detach(const std::string& id, Stream& stream) {
  if (stream.identity.empty()) return;
  const auto client = clients_.find(stream.identity);
  client->second.streams.erase(id);
  client->second.blocked_since_us = 0;  // perhaps for this stream alone: the next send finds out
  if (client->second.streams.empty()) clients_.erase(client);
  stream.identity.clear();
  stream.detached_since_us = clock_.NowUs();
}

void Frontend::CheckReaders(std::vector<FrontendEvent>& events) {
  const int64_t now = clock_.NowUs();
  std::vector<std::string> slow;
  for (const auto& [identity, client] : clients_) {
    if (client.blocked_since_us == 0) continue;
    if (now - client.blocked_since_us < settings_.slow_reader_timeout_ms * 1000) continue;
    slow.insert(slow.end(), client.streams.begin(), client.streams.end());
  }
  for (const std::string& id : slow) {
    Abandon(id, streams_.at(id),
            Error{ErrorCode::kDeadlineExceeded,
                  StrCat("the client took nothing for ", settings_.slow_reader_timeout_ms,
                         " ms (frontend.slow_reader_timeout_ms)")},
            events);
  }
  for (auto& [id, stream] : streams_) {
    if (!stream.identity.empty() || stream.abandoned || stream.sequence->finished()) continue;
    if (now - stream.detached_since_us < settings_.resume_ttl_ms * 1000) continue;
    Abandon(id, stream,
            Error{ErrorCode::kDeadlineExceeded,
                  StrCat("the client went away and did not resume within ", settings_.resume_ttl_ms,
                         " ms (frontend.resume_ttl_ms)")},
            events);
  }
}

void Frontend::CheckUndelivered(std::vector<FrontendEvent>& events) {
  while (undelivered_total_ > settings_.undelivered_bytes_max) {
    const auto largest = std::max_element(
        streams_.begin(), streams_.end(),
        [](const auto& a, const auto& b) { return a.second.undelivered < b.second.undelivered; });
    Abandon(largest->first, largest->second,
            ResourceExhausted(StrCat("what clients did not take has reached ",
                                     settings_.undelivered_bytes_max,
                                     " bytes (frontend.undelivered_bytes_max); this one had the "
                                     "most")),
            events);
  }
}

void Frontend::Abandon(const std::string& id, Stream& stream, Error error,
                       std::vector<FrontendEvent>& events) {
  Detach(id, stream);
  dirty_.erase(id);
  undelivered_total_ -= stream.undelivered;
  stream.undelivered = 0;
  if (stream.abandoned || stream.sequence->finished()) return;
  stream.abandoned = true;
  FrontendEvent event;
  event.kind = FrontendEvent::Kind::kAbandoned;
  event.request.id = id;
  event.error = std::move(error);
  events.push_back(std::move(event));
}

int64_t Frontend::NextWakeUs() const {
  int64_t wake = std::numeric_limits<int64_t>::max();
  for (const std::string& id : dirty_) {
    const auto client = clients_.find(streams_.at(id).identity);
    if (client != clients_.end()) wake = std::min(wake, client->second.retry_us);
  }
  return wake;
}

}  // namespace echelon
