#pragma once
// Frontend: the clients' side of the service. Checks frames, keeps a stream for each request (who
// reads it and how far), and delivers the token log: what a client did not take stays in the log
// and goes out coalesced when it reads again, so that no reader slows another.
//
// Thread: the coordinator's; nothing blocks. Sequences are owned by the coordinator and live until
// Close() of their stream.

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/config.h"
#include "coordinator/client_api.h"
#include "coordinator/client_transport.h"
#include "coordinator/sequence.h"

namespace echelon {

struct FrontendEvent {
  enum class Kind {
    kSubmit,     // `request` from `identity`; answer with Open or Refuse
    kCancel,     // the owner of `request.id` asks for its end
    kAbandoned,  // nobody reads `request.id`: `error` says why; end it
    kStatus,     // `identity` asks; answer with SendStatus
  };
  Kind kind = Kind::kStatus;
  std::string identity;
  Request request;  // for all but kSubmit only its id
  Error error;
};

struct FrontendCounters {
  uint64_t messages = 0;
  uint64_t refused_messages = 0;          // malformed, unknown type, version
  std::map<ErrorCode, uint64_t> refused;  // whatever was refused before it ran, messages included
  uint64_t dropped_replies = 0;  // answers outside streams that a full or gone peer did not take
};

class Frontend {
 public:
  Frontend(FrontendSettings settings, SubmitLimits limits, ClientTransport& transport,
           const Clock& clock);

  // Takes what clients sent, a bounded amount, and looks for readers that gave up. Each event is
  // handled before the next message is read, so that a cancel finds the submit before it.
  void Poll(const std::function<void(FrontendEvent)>& handle);

  void Refuse(const std::string& identity, const std::string& id, const Error& error,
              std::optional<int64_t> retry_after_ms = {});
  // An open stream ends by an error before its request was accepted.
  void CountRefused(ErrorCode code) { ++counters_.refused[code]; }
  // A stream for the request whose kSubmit is being handled. `accepted` follows by Accept().
  void Open(const std::string& identity, const Sequence* sequence);
  void Accept(const std::string& id, std::string accepted_body);
  // The log of `id` has more, or its sequence finished.
  void Notify(const std::string& id);
  void Close(const std::string& id);
  // Whether the stream's last event was taken, or nobody waits for it.
  bool Delivered(const std::string& id) const;
  void SendStatus(const std::string& identity, const std::string& id, const Json& status);
  // Sends what clients can take now.
  void Flush();

  void SetFacts(ServiceFacts facts) { facts_ = std::move(facts); }
  const ServiceFacts& facts() const { return facts_; }
  bool HasMoreToSend() const { return !dirty_.empty(); }
  // When Flush or Poll has something to do again without a message: Clock::NowUs, or INT64_MAX.
  int64_t NextWakeUs() const;
  int64_t undelivered_bytes() const { return undelivered_total_; }
  int clients() const { return static_cast<int>(clients_.size()); }
  const FrontendCounters& counters() const { return counters_; }

 private:
  struct Stream {
    const Sequence* sequence = nullptr;
    std::string identity;           // who reads; empty = nobody
    int64_t detached_since_us = 0;  // while nobody reads
    std::string accepted_body;      // empty until accepted
    bool accepted_sent = false;
    int32_t next = 0;  // log index to send next
    bool end_sent = false;
    int32_t counted = 0;      // log entries in `undelivered`
    int64_t undelivered = 0;  // bytes of the log that the reader has not taken
    bool abandoned = false;   // reported once
  };
  struct Client {
    std::set<std::string> streams;
    int64_t blocked_since_us = 0;  // 0 = takes what is sent
    int64_t retry_us = 0;
    int64_t retry_wait_us = 0;
  };

  void Handle(ClientMessage& message, std::vector<FrontendEvent>& events);
  void HandleSubmit(const ClientMessage& message, std::vector<FrontendEvent>& events);
  void HandleResume(const ClientMessage& message);
  void HandleCancel(const ClientMessage& message, std::vector<FrontendEvent>& events);
  bool HasRoomFor(const std::string& identity, const std::string& id);
  void Attach(const std::string& id, Stream& stream, const std::string& identity);
  void Detach(const std::string& id, Stream& stream);
  void RestartAt(Stream& stream, int32_t next);
  void Abandon(const std::string& id, Stream& stream, Error error,
               std::vector<FrontendEvent>& events);
  void CheckReaders(std::vector<FrontendEvent>& events);
  void CheckUndelivered(std::vector<FrontendEvent>& events);
  bool Reply(const std::string& identity, std::string_view type, std::string_view id,
             std::string_view body);
  // True when all that there is now was taken.
  bool Deliver(const std::string& id, Stream& stream);
  bool SendEvent(const std::string& id, Stream& stream, std::string_view type,
                 std::string_view body);
  bool SendTokens(const std::string& id, Stream& stream);
  void Count(Stream& stream);
  void Discount(Stream& stream, int32_t from, int32_t to);

  const FrontendSettings settings_;
  const SubmitLimits limits_;
  ClientTransport& transport_;
  const Clock& clock_;
  ServiceFacts facts_;
  std::map<std::string, Stream> streams_;  // by request id
  std::map<std::string, Client> clients_;  // those that read a stream
  std::set<std::string> dirty_;            // streams with something to send
  int64_t undelivered_total_ = 0;
  FrontendCounters counters_;
};

}  // namespace echelon
