#pragma once
// Client: one connection to an Echelon service (docs/client-api.md), any number of streams on it.
// Used by one thread at a time; every call that waits has a timeout. When the connection breaks the
// client opens a new one and resumes every stream where it stopped: what Next() returns for a
// stream is always contiguous, whatever happened in between.

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/cpp/event_queue.h"
#include "client/cpp/events.h"
#include "client/cpp/request.h"
#include "client/cpp/transport.h"
#include "common/clock.h"
#include "common/json.h"
#include "common/result.h"

namespace echelon {

struct ClientOptions {
  std::string endpoint = "tcp://127.0.0.1:5760";
  int64_t connect_timeout_ms = 5'000;  // until the service answers the first ping
  int64_t silence_ms = 5'000;          // nothing heard for so long while waiting: ask with a ping
  int64_t give_up_after_ms = 30'000;   // nothing heard for so long, pings included: kUnavailable
  int64_t reopen_interval_ms = 200;    // least time between two new connections
};

// A whole answer, collected from the events of its stream.
struct Completion {
  AcceptedEvent accepted;
  std::vector<int32_t> token_ids;
  std::string text;
  std::vector<LogprobRow> logprobs;
  DoneEvent done;
  std::optional<ServiceError> error;  // set: the stream ended with it
  void Add(const StreamEvent& event);
};

class Client {
 public:
  // Connects and waits until the service answers.
  static Result<std::unique_ptr<Client>> Connect(const ClientOptions& options);
  ~Client();

  // Puts a request in the service's queue and returns its id (`id`, or a fresh one where that is
  // empty). Submitting an id again starts its stream from the beginning.
  Result<std::string> Submit(const Json& body, std::string id = "");
  // Takes up the stream of a request that another connection submitted, from token `seq` on.
  Status Resume(const std::string& id, int64_t seq);
  // Asks for the end of a request; its stream ends with `done` (finish_reason cancelled).
  Status Cancel(const std::string& id);

  // The next event, of stream `id` or of any; none when nothing came within `timeout_ms`. What
  // other streams got meanwhile is kept for them, their whole answers if need be. An error here is
  // the connection's (kUnavailable once the service was silent too long); a request's own error is
  // an event.
  Result<std::optional<StreamEvent>> Next(int64_t timeout_ms, const std::string& id = "");
  // Submits and reads to the end. `on_event` sees every event; returning false cancels the request.
  Result<Completion> Generate(const Json& body,
                              const std::function<bool(const StreamEvent&)>& on_event = {});

  Result<ServiceStatus> GetStatus(int64_t timeout_ms);
  Status Ping(int64_t timeout_ms);

 private:
  struct Stream {
    std::string submitted;  // the body, until it was accepted: an unanswered submit is sent again
    int64_t next_seq = 0;
    bool accepted = false;   // the caller has seen the accepted event
    bool resyncing = true;   // until `accepted` answers a submit or resume, what comes is old
    bool cancelled = false;  // asked for; asked again on a new connection
    int resyncs_without_progress = 0;
  };

  Client(ClientOptions options, std::unique_ptr<Transport> transport);
  // One wait on the socket, at most `timeout_ms` long, and what follows from it.
  Status Pump(int64_t timeout_ms);
  Status Handle(const Frame& frame);
  Status HandleTokens(const std::string& id, Stream& stream, const Json& body);
  Status HandleDone(const std::string& id, Stream& stream, const Json& body);
  Status HandleError(const std::string& id, const Json& body);
  Status SendResume(const std::string& id, Stream& stream);
  Status Reopen();
  // Pings after a silence, reopens after a longer one, gives up in the end.
  Status CheckSilence();
  int64_t NowMs() const { return clock_.NowUs() / 1000; }

  ClientOptions options_;
  SystemClock clock_;
  std::unique_ptr<Transport> transport_;
  std::map<std::string, Stream> streams_;  // open ones only
  EventQueue events_;                      // received, not yet taken by Next
  std::deque<Result<ServiceStatus>> statuses_;
  bool status_wanted_ = false;
  int64_t pongs_ = 0;
  // Time spent waiting since anything was heard; a caller that comes back late does not count.
  int64_t silent_ms_ = 0;
  int64_t pings_sent_ = 0;  // since anything was heard
  int64_t last_reopen_ms_ = 0;
  bool reopen_due_ = false;
};

// "c-" and 32 hexadecimal digits drawn by the system: no two clients choose the same.
std::string NewRequestId();

}  // namespace echelon
