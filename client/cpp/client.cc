#include "client/cpp/client.h"

#include <algorithm>
#include <random>
#include <utility>

#include "common/strings.h"

namespace echelon {

namespace {

// One wait on the socket: short enough that a due reopening is not late.
constexpr int64_t kPollMs = 100;
// A stream whose gap is not closed by so many resumes in a row is broken for good.
constexpr int kResyncsMax = 3;

Result<Json> ParseBody(const Frame& frame) {
  JsonLimits limits;
  limits.bytes_max = kAnswerBytesMax;
  return Json::Parse(frame.body, StrCat("the service's ", frame.type), limits);
}

}  // namespace

std::string NewRequestId() {
  std::random_device random;
  std::string id = "c-";
  for (int word = 0; word < 4; ++word) {
    uint32_t bits = random();
    for (int digit = 0; digit < 8; ++digit, bits >>= 4) id.push_back("0123456789abcdef"[bits & 15]);
  }
  return id;
}

void Completion::Add(const StreamEvent& event) {
  if (const auto* first = std::get_if<AcceptedEvent>(&event.body)) {
    accepted = *first;
  } else if (const auto* tokens = std::get_if<TokensEvent>(&event.body)) {
    token_ids.insert(token_ids.end(), tokens->token_ids.begin(), tokens->token_ids.end());
    logprobs.insert(logprobs.end(), tokens->logprobs.begin(), tokens->logprobs.end());
    text += tokens->text;
  } else if (const auto* last = std::get_if<DoneEvent>(&event.body)) {
    done = *last;
    text += last->text;
  } else {
    error = std::get<ServiceError>(event.body);
  }
}

Client::Client(ClientOptions options, std::unique_ptr<Transport> transport)
    : options_(std::move(options)), transport_(std::move(transport)) {}

Client::~Client() = default;

Result<std::unique_ptr<Client>> Client::Connect(const ClientOptions& options) {
  ASSIGN_OR_RETURN(auto transport, OpenTransport(options.endpoint));
  std::unique_ptr<Client> client(new Client(options, std::move(transport)));
  RETURN_IF_ERROR(client->Ping(options.connect_timeout_ms));
  return client;
}

Result<std::string> Client::Submit(const Json& body, std::string id) {
  if (id.empty()) id = NewRequestId();
  Stream stream;
  stream.submitted = body.Dump();
  RETURN_IF_ERROR(transport_->Send({"submit", id, stream.submitted}));
  events_.Drop(id);
  streams_[id] = std::move(stream);
  silent_ms_ = 0;
  return id;
}

Status Client::Resume(const std::string& id, int64_t seq) {
  Stream stream;
  stream.next_seq = seq;
  RETURN_IF_ERROR(SendResume(id, stream));
  events_.Drop(id);
  streams_[id] = std::move(stream);
  silent_ms_ = 0;
  return Status();
}

Status Client::Cancel(const std::string& id) {
  if (const auto stream = streams_.find(id); stream != streams_.end()) {
    stream->second.cancelled = true;
  }
  return transport_->Send({"cancel", id, "{}"});
}

Result<std::optional<StreamEvent>> Client::Next(int64_t timeout_ms, const std::string& id) {
  const int64_t deadline_ms = NowMs() + timeout_ms;
  for (bool last_look = false;;) {
    if (std::optional<StreamEvent> event = events_.Take(id); event || last_look) return event;
    const int64_t left_ms = deadline_ms - NowMs();
    last_look = left_ms <= 0;
    RETURN_IF_ERROR(Pump(std::max<int64_t>(left_ms, 0)));
  }
}

Result<Completion> Client::Generate(const Json& body,
                                    const std::function<bool(const StreamEvent&)>& on_event) {
  ASSIGN_OR_RETURN(const std::string id, Submit(body));
  Completion completion;
  bool cancelled = false;
  while (true) {
    ASSIGN_OR_RETURN(std::optional<StreamEvent> event, Next(1'000, id));
    if (!event) continue;  // Next gives up by itself when the service is gone
    completion.Add(*event);
    const bool go_on = !on_event || on_event(*event);
    if (event->IsLast()) return completion;
    if (!go_on && !cancelled) {
      cancelled = true;
      RETURN_IF_ERROR(Cancel(id));
    }
  }
}

Result<ServiceStatus> Client::GetStatus(int64_t timeout_ms) {
  statuses_.clear();
  RETURN_IF_ERROR(transport_->Send({"status", "", "{}"}));
  status_wanted_ = true;
  const int64_t deadline_ms = NowMs() + timeout_ms;
  while (statuses_.empty()) {
    const int64_t left_ms = deadline_ms - NowMs();
    if (left_ms <= 0) {
      status_wanted_ = false;
      return Unavailable(StrCat("no answer from ", options_.endpoint, " within ", timeout_ms,
                                " ms; is the service running there?"));
    }
    RETURN_IF_ERROR(Pump(left_ms));
  }
  status_wanted_ = false;
  Result<ServiceStatus> status = std::move(statuses_.front());
  statuses_.pop_front();
  return status;
}

Status Client::Ping(int64_t timeout_ms) {
  const int64_t pongs_before = pongs_;
  RETURN_IF_ERROR(transport_->Send({"ping", "", "{}"}));
  const int64_t deadline_ms = NowMs() + timeout_ms;
  while (pongs_ == pongs_before) {
    const int64_t left_ms = deadline_ms - NowMs();
    if (left_ms <= 0) {
      return Unavailable(StrCat("no answer from ", options_.endpoint, " within ", timeout_ms,
                                " ms; is the service running there?"));
    }
    RETURN_IF_ERROR(Pump(left_ms));
  }
  return Status();
}

Status Client::Pump(int64_t timeout_ms) {
  if (reopen_due_ && NowMs() - last_reopen_ms_ >= options_.reopen_interval_ms) {
    RETURN_IF_ERROR(Reopen());
  }
  const int64_t start_ms = NowMs();
  ASSIGN_OR_RETURN(const Transport::Polled polled, transport_->Poll(std::min(timeout_ms, kPollMs)));
  if (polled.frame) {
    silent_ms_ = 0;
    pings_sent_ = 0;
    return Handle(*polled.frame);
  }
  if (polled.disconnected) reopen_due_ = true;
  silent_ms_ += NowMs() - start_ms;
  const bool waiting = !streams_.empty() || status_wanted_;
  return waiting ? CheckSilence() : Status();
}

Status Client::CheckSilence() {
  if (silent_ms_ >= options_.give_up_after_ms) {
    const int64_t silent_ms = std::exchange(silent_ms_, 0);
    pings_sent_ = 0;
    return Unavailable(StrCat("nothing heard from ", options_.endpoint, " for ", silent_ms,
                              " ms; is the service still running there?"));
  }
  if (silent_ms_ < options_.silence_ms * (pings_sent_ + 1)) return Status();
  // The second unanswered ping in a row means that the connection leads nowhere any more.
  if (++pings_sent_ % 2 == 0) reopen_due_ = true;
  return transport_->Send({"ping", "", "{}"});
}

Status Client::Reopen() {
  reopen_due_ = false;
  last_reopen_ms_ = NowMs();
  RETURN_IF_ERROR(transport_->Reopen());
  for (auto& [id, stream] : streams_) {
    if (stream.submitted.empty()) {
      RETURN_IF_ERROR(SendResume(id, stream));
    } else {  // the service may never have seen it; submitting twice is harmless
      RETURN_IF_ERROR(transport_->Send({"submit", id, stream.submitted}));
    }
    if (stream.cancelled) RETURN_IF_ERROR(transport_->Send({"cancel", id, "{}"}));
  }
  if (status_wanted_) RETURN_IF_ERROR(transport_->Send({"status", "", "{}"}));
  return Status();
}

Status Client::SendResume(const std::string& id, Stream& stream) {
  stream.resyncing = true;
  return transport_->Send({"resume", id, StrCat("{\"seq\":", stream.next_seq, "}")});
}

Status Client::Handle(const Frame& frame) {
  ASSIGN_OR_RETURN(const Json body, ParseBody(frame));
  if (frame.type == "pong") {
    ++pongs_;
    return Status();
  }
  if (frame.type == "status") {
    statuses_.push_back(DecodeStatus(body));
    return Status();
  }
  if (frame.type == "error") return HandleError(frame.id, body);
  const auto found = streams_.find(frame.id);
  if (found == streams_.end()) return Status();  // the tail of a stream nobody reads any more
  Stream& stream = found->second;
  if (frame.type == "accepted") {
    ASSIGN_OR_RETURN(AcceptedEvent event, DecodeAccepted(body));
    stream.submitted.clear();
    stream.resyncing = false;
    if (!stream.accepted) events_.Push({frame.id, std::move(event)});
    stream.accepted = true;
    return Status();
  }
  if (frame.type == "tokens") return HandleTokens(frame.id, stream, body);
  if (frame.type == "done") return HandleDone(frame.id, stream, body);
  return Status();  // a type newer than this client
}

Status Client::HandleTokens(const std::string& id, Stream& stream, const Json& body) {
  if (stream.resyncing) return Status();
  ASSIGN_OR_RETURN(TokensEvent event, DecodeTokens(body));
  const auto count = static_cast<int64_t>(event.token_ids.size());
  if (event.seq == stream.next_seq) {
    stream.next_seq += count;
    stream.resyncs_without_progress = 0;
    events_.Push({id, std::move(event)});
    return Status();
  }
  if (event.seq + count <= stream.next_seq) return Status();  // all of it is known already
  if (++stream.resyncs_without_progress > kResyncsMax) {
    return Corrupt(StrCat("stream ", id, " is out of order: token ", stream.next_seq,
                          " is due and the service sends ", event.seq));
  }
  return SendResume(id, stream);
}

Status Client::HandleDone(const std::string& id, Stream& stream, const Json& body) {
  // Old; but a request that was cancelled before it was accepted has only its `done`.
  const bool never_accepted = stream.cancelled && !stream.submitted.empty();
  if (stream.resyncing && !never_accepted) return Status();
  ASSIGN_OR_RETURN(DoneEvent event, DecodeDone(body));
  if (event.seq != stream.next_seq) {
    if (++stream.resyncs_without_progress > kResyncsMax) {
      return Corrupt(StrCat("stream ", id, " ends at token ", event.seq, " after ", stream.next_seq,
                            " tokens"));
    }
    return SendResume(id, stream);
  }
  streams_.erase(id);
  events_.Push({id, std::move(event)});
  return Status();
}

Status Client::HandleError(const std::string& id, const Json& body) {
  ASSIGN_OR_RETURN(ServiceError event, DecodeServiceError(body));
  if (id.empty() && status_wanted_) {
    statuses_.push_back(event.error);
    return Status();
  }
  if (!id.empty() && streams_.erase(id) == 0) return Status();
  events_.Push({id, std::move(event)});
  return Status();
}

}  // namespace echelon
