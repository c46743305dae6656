#include "worker/control_link.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <zmq.hpp>

#include "common/clock.h"
#include "common/network.h"
#include "common/strings.h"

namespace echelon {

namespace {

constexpr int64_t kFrameBytesMax = 64 << 20;  // a plan of 2^20 tokens and pages takes 8 MiB
constexpr int64_t kJoinRepeatUs = 1'000'000;
constexpr int kLingerMs = 1000;  // for the last frames of a rank that ends
constexpr int kTurnMsMax = 100;  // between looks at lease and heartbeat

class ZmqControlLink final : public ControlLink {
 public:
  ZmqControlLink(const LinkOptions& options, const Logger& logger)
      : options_(options), logger_(logger), socket_(context_, zmq::socket_type::dealer) {}
  ~ZmqControlLink() override {
    Close();
    if (wake_fd_ >= 0) close(wake_fd_);
  }

  Status Start();
  Result<std::string> AwaitWelcome() override;
  void SetHeartbeat(std::function<HeartbeatMessage()> heartbeat) override {
    const std::lock_guard lock(mutex_);
    heartbeat_ = std::move(heartbeat);
  }
  void StartLease(int64_t heartbeat_interval_ms, int64_t lease_ms) override;
  void SendProgress(const ProgressMessage& m) override {
    Enqueue(ControlType::kProgress, Encode(m));
  }
  void SendReady(const ReadyMessage& m) override { Enqueue(ControlType::kReady, Encode(m)); }
  void SendResult(const StepResult& r) override { Enqueue(ControlType::kResult, EncodeResult(r)); }
  void SendFailure(const Error& error) override {
    Enqueue(ControlType::kFailure, Encode(FailureMessage{error}));
  }
  LinkEvent NextEvent(int64_t timeout_ms) override;
  void Close() override;

 private:
  using Frame = std::pair<ControlType, std::string>;

  void Enqueue(ControlType type, std::string body);
  void Run();  // the thread
  void SendQueued();
  void SendFrame(ControlType type, const std::string& body);
  void ReceiveAll();
  void Accept(const ControlHeader& header, std::string_view body);
  void Deliver(LinkEvent event);
  void SendDue();  // JOIN, heartbeats
  void CheckLease();

  const LinkOptions options_;
  const Logger& logger_;
  const SystemClock clock_;
  zmq::context_t context_{1};
  zmq::socket_t socket_;  // of the thread, once it runs
  int wake_fd_ = -1;      // counts what was queued, and Close
  std::string join_;

  // Of the thread alone.
  int64_t started_us_ = 0;
  int64_t last_heard_us_ = 0;
  int64_t last_sent_us_ = 0;
  uint64_t epoch_ = 0;  // options_.epoch, or the coordinator's when that is 0
  int64_t frames_dropped_ = 0;
  bool lease_expired_before_ = false;

  std::atomic<int64_t> heartbeat_us_{0};  // 0 = not joined yet
  std::atomic<int64_t> lease_us_{0};
  std::atomic<bool> closing_{false};

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<HeartbeatMessage()> heartbeat_;
  std::deque<Frame> outgoing_;
  std::deque<LinkEvent> events_;
  std::optional<Result<std::string>> welcome_;

  std::thread thread_;
};

Status ZmqControlLink::Start() {
  ASSIGN_OR_RETURN(const Endpoint endpoint, ParseEndpoint(options_.coordinator));
  JoinMessage join;
  join.world = options_.world;
  join.pid = getpid();
  join.build = BuildId();
  join.host = HostName();
  join.interface = InterfaceTowards(endpoint.host);
  join_ = Encode(join);
  logger_.Info(StrCat("joining ", options_.coordinator, " (epoch ", options_.epoch, ") from host ",
                      join.host, ", interface ",
                      join.interface.empty() ? "unknown: no route" : join.interface));
  try {
    socket_.set(zmq::sockopt::maxmsgsize, kFrameBytesMax);
    socket_.set(zmq::sockopt::linger, kLingerMs);
    socket_.set(zmq::sockopt::reconnect_ivl, 100);
    socket_.connect(options_.coordinator);
  } catch (const zmq::error_t& error) {
    return Unavailable(StrCat("cannot connect to ", options_.coordinator, ": ", error.what()));
  }
  wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (wake_fd_ < 0) return InternalError("eventfd failed");
  thread_ = std::thread([this] { Run(); });
  return {};
}

Result<std::string> ZmqControlLink::AwaitWelcome() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return welcome_.has_value(); });
  return *welcome_;
}

void ZmqControlLink::StartLease(int64_t heartbeat_interval_ms, int64_t lease_ms) {
  lease_us_ = lease_ms * 1000;
  heartbeat_us_ = heartbeat_interval_ms * 1000;
}

LinkEvent ZmqControlLink::NextEvent(int64_t timeout_ms) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                    [this] { return !events_.empty(); });
  if (events_.empty()) return {};
  LinkEvent event = std::move(events_.front());
  events_.pop_front();
  return event;
}

void ZmqControlLink::Close() {
  if (!thread_.joinable()) return;
  closing_ = true;
  eventfd_write(wake_fd_, 1);
  thread_.join();
  socket_.close();
  context_.close();  // waits for the linger
}

void ZmqControlLink::Enqueue(ControlType type, std::string body) {
  {
    const std::lock_guard lock(mutex_);
    outgoing_.emplace_back(type, std::move(body));
  }
  eventfd_write(wake_fd_, 1);
}

void ZmqControlLink::Run() {
  epoch_ = options_.epoch;
  started_us_ = last_heard_us_ = clock_.NowUs();
  SendFrame(ControlType::kJoin, join_);
  while (!closing_) {
    zmq::pollitem_t items[] = {{socket_.handle(), 0, ZMQ_POLLIN, 0},
                               {nullptr, wake_fd_, ZMQ_POLLIN, 0}};
    const int64_t heartbeat_ms = heartbeat_us_ / 1000;
    const int64_t turn_ms =
        heartbeat_ms > 0 ? std::min<int64_t>(kTurnMsMax, heartbeat_ms) : kTurnMsMax;
    zmq::poll(items, 2, std::chrono::milliseconds(turn_ms));
    eventfd_t ignored;
    eventfd_read(wake_fd_, &ignored);
    SendQueued();
    ReceiveAll();  // first, so that a process that was stopped for a while sees what waits for it
    CheckLease();
    SendDue();
  }
  SendQueued();
}

void ZmqControlLink::SendQueued() {
  std::deque<Frame> frames;
  {
    const std::lock_guard lock(mutex_);
    frames.swap(outgoing_);
  }
  for (const auto& [type, body] : frames) SendFrame(type, body);
}

void ZmqControlLink::SendFrame(ControlType type, const std::string& body) {
  ControlHeader header;
  header.type = type;
  header.epoch = epoch_;
  header.rank = options_.rank;
  const std::string head = EncodeHeader(header);
  // Never blocks: a coordinator that does not read 1000 frames long has lost this rank anyway.
  if (!socket_.send(zmq::buffer(head), zmq::send_flags::sndmore | zmq::send_flags::dontwait))
    return;
  (void)socket_.send(zmq::buffer(body), zmq::send_flags::dontwait);
  last_sent_us_ = clock_.NowUs();
}

void ZmqControlLink::ReceiveAll() {
  zmq::message_t head, body, rest;
  while (socket_.recv(head, zmq::recv_flags::dontwait)) {
    body.rebuild();
    int parts = 1;
    for (bool more = head.more(); more; ++parts) {
      zmq::message_t& part = parts == 1 ? body : rest;
      (void)socket_.recv(part);
      more = part.more();
    }
    const auto header = DecodeHeader(head.to_string_view());
    if (parts == 2 && header.ok() && epoch_ == 0 && header->type == ControlType::kWelcome) {
      epoch_ = header->epoch;
    }
    if (parts != 2 || !header.ok() || header->epoch != epoch_ ||
        header->rank != static_cast<uint32_t>(options_.rank)) {
      // (Before the welcome a rank that asks for its epoch hears heartbeats of it.)
      if (epoch_ != 0 && ++frames_dropped_ == 1)
        logger_.Warn("dropped a frame that is not for this rank and epoch");
      continue;
    }
    last_heard_us_ = clock_.NowUs();
    Accept(*header, body.to_string_view());
  }
}

void ZmqControlLink::Accept(const ControlHeader& header, std::string_view body) {
  switch (header.type) {
    case ControlType::kWelcome: {
      const auto message = DecodeWelcome(body);
      const std::lock_guard lock(mutex_);
      if (!welcome_ && message.ok()) welcome_.emplace(message->config_yaml);
      changed_.notify_all();
      return;
    }
    case ControlType::kRefuse: {
      const auto message = DecodeRefuse(body);
      const std::string reason = message.ok() ? message->reason : "no reason given";
      const std::lock_guard lock(mutex_);
      if (!welcome_) {
        welcome_.emplace(InvalidArgument(StrCat("the coordinator refused this rank: ", reason)));
      }
      changed_.notify_all();
      return;
    }
    case ControlType::kPlan:
      return Deliver({LinkEvent::kPlan, std::string(body)});
    case ControlType::kShutdown:
      return Deliver({LinkEvent::kShutdown, ""});
    default:
      return;  // heartbeats have been heard
  }
}

void ZmqControlLink::Deliver(LinkEvent event) {
  const std::lock_guard lock(mutex_);
  events_.push_back(std::move(event));
  changed_.notify_all();
}

void ZmqControlLink::SendDue() {
  const int64_t heartbeat_us = heartbeat_us_;
  const int64_t silent_us = clock_.NowUs() - last_sent_us_;
  if (heartbeat_us == 0) {
    if (silent_us >= kJoinRepeatUs) SendFrame(ControlType::kJoin, join_);
  } else if (silent_us >= heartbeat_us) {
    std::function<HeartbeatMessage()> heartbeat;
    {
      const std::lock_guard lock(mutex_);
      heartbeat = heartbeat_;
    }
    SendFrame(ControlType::kHeartbeat, heartbeat ? Encode(heartbeat()) : "");
  }
}

void ZmqControlLink::CheckLease() {
  const int64_t now_us = clock_.NowUs();
  const int64_t lease_us = lease_us_;
  const bool expired = lease_us > 0 && now_us - last_heard_us_ > lease_us;
  // Twice, a turn apart: after SIGSTOP and SIGCONT the heartbeats of the meantime lie in the kernel
  // and the socket's own thread must first be given the time to hand them over.
  if (expired && std::exchange(lease_expired_before_, true)) {
    logger_.Error(StrCat("no word from the coordinator ", options_.coordinator, " for ",
                         (now_us - last_heard_us_) / 1000,
                         " ms (group.lease_ms = ", lease_us / 1000, "): ending"));
    _exit(kExitLostCoordinator);
  }
  if (!expired) lease_expired_before_ = false;
  if (lease_us == 0 && now_us - started_us_ > options_.join_timeout_ms * 1000) {
    const std::lock_guard lock(mutex_);
    if (welcome_) return;
    welcome_.emplace(Unavailable(StrCat("the coordinator ", options_.coordinator,
                                        " did not let this rank join within ",
                                        options_.join_timeout_ms, " ms")));
    changed_.notify_all();
  }
}

}  // namespace

Result<std::unique_ptr<ControlLink>> ControlLink::Connect(const LinkOptions& options,
                                                          const Logger& logger) {
  auto link = std::make_unique<ZmqControlLink>(options, logger);
  RETURN_IF_ERROR(link->Start());
  return std::unique_ptr<ControlLink>(std::move(link));
}

}  // namespace echelon
