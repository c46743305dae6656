#include "client/testing/fake_server.h"

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <zmq.hpp>
#include <zmq_addon.hpp>

#include "common/json.h"
#include "common/strings.h"

namespace echelon {

class FakeServer::Impl {
 public:
  explicit Impl(Handler handler) : handler_(std::move(handler)) {
    Bind("tcp://127.0.0.1:*");
    endpoint_ = router_.get(zmq::sockopt::last_endpoint);
    thread_ = std::thread([this] { Run(); });
  }
  ~Impl() {
    stop_ = true;
    thread_.join();
  }
  std::string endpoint() const { return endpoint_; }
  std::vector<Frame> received() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return received_;
  }

 private:
  struct Pending {
    std::string peer;
    FakeAction action;
  };

  void Bind(const std::string& endpoint) {
    router_ = zmq::socket_t(context_, zmq::socket_type::router);
    router_.set(zmq::sockopt::linger, 0);
    // The port of a socket that was just closed is free again after a moment.
    for (int attempt = 0;; ++attempt) {
      try {
        router_.bind(endpoint);
        return;
      } catch (const zmq::error_t&) {
        if (attempt == 200) throw;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
    }
  }

  void Run() {
    while (!stop_) {
      zmq::pollitem_t item{router_.handle(), 0, ZMQ_POLLIN, 0};
      zmq::poll(&item, 1, std::chrono::milliseconds(pending_.empty() ? 10 : 0));
      if (item.revents != 0) Receive();
      if (!pending_.empty()) Act();
    }
    router_.close();
  }

  void Receive() {
    std::vector<zmq::message_t> parts;
    if (!zmq::recv_multipart(router_, std::back_inserter(parts)) || parts.size() != 5) return;
    const Frame frame{parts[2].to_string(), parts[3].to_string(), parts[4].to_string()};
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      received_.push_back(frame);
    }
    for (FakeAction& action : handler_(frame)) {
      pending_.push_back({parts[0].to_string(), std::move(action)});
    }
  }

  void Act() {
    const Pending next = std::move(pending_.front());
    pending_.pop_front();
    std::this_thread::sleep_for(std::chrono::milliseconds(next.action.delay_ms));
    if (next.action.disconnect) {
      pending_.clear();
      router_.close();
      Bind(endpoint_);
      return;
    }
    const std::string protocol = kClientProtocol;
    const Frame& frame = next.action.frame;
    const std::vector<zmq::const_buffer> parts = {zmq::buffer(next.peer), zmq::buffer(protocol),
                                                  zmq::buffer(frame.type), zmq::buffer(frame.id),
                                                  zmq::buffer(frame.body)};
    zmq::send_multipart(router_, parts);
  }

  Handler handler_;
  zmq::context_t context_{1};
  zmq::socket_t router_;
  std::string endpoint_;
  std::deque<Pending> pending_;
  mutable std::mutex mutex_;
  std::vector<Frame> received_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

FakeServer::FakeServer(Handler handler) : impl_(std::make_unique<Impl>(std::move(handler))) {}
FakeServer::~FakeServer() = default;
std::string FakeServer::endpoint() const { return impl_->endpoint(); }
std::vector<Frame> FakeServer::received() const { return impl_->received(); }

FakeServer::Handler WithPong(FakeServer::Handler handler) {
  return [handler = std::move(handler)](const Frame& frame) {
    if (frame.type == "ping") return std::vector<FakeAction>{{{"pong", "", "{}"}}};
    return handler(frame);
  };
}

namespace {

constexpr char kAccepted[] = R"({"prompt_tokens":3,"seed":7,"model":"fake","created":0})";

std::string DoneBody(int64_t total, const char* reason) {
  return StrCat(
      R"({"seq":)", total, R"(,"finish_reason":")", reason,
      R"(","text":"","usage":{"prompt_tokens":3,"completion_tokens":)", total,
      R"(,"total_tokens":)", total + 3,
      R"(},"timings":{"queue_s":0,"ttft_s":0.5,"decode_tokens_per_s":20,"total_s":1},)"
      R"("seed":7,"layout":{"tp":2,"pp":1,"sp":1},"ranks":[{"rank":0,"host":"h","steps":)",
      total, R"(,"compute_s":0.5,"comm_hidden_s":0.1,"comm_exposed_s":0.2}],)",
      R"("prompt_ids":[1,2,3]})");
}

std::string StatusBody() {
  return R"({"state":"ready","version":"0.1.0","model":"fake","epoch":1,)"
         R"("layout":{"tp":2,"pp":1,"sp":1},"schedule":"standard","running":0,"waiting":0,)"
         R"("kv_pages_free":10,"kv_pages_total":10,"context_max":128,"message":"",)"
         R"("ranks":[{"rank":0,"host":"h","backend":"cpu","bytes_done":5,"bytes_total":5,)"
         R"("joined":true,"ready":true}]})";
}

class FakeLog {
 public:
  explicit FakeLog(FakeServiceOptions options) : options_(options) {}

  std::vector<FakeAction> Answer(const Frame& frame) {
    if (frame.type == "ping") return {{{"pong", "", "{}"}}};
    if (frame.type == "status") return {{{"status", "", StatusBody()}}};
    if (frame.type == "submit") {
      const auto [entry, fresh] = bodies_.emplace(frame.id, frame.body);
      if (!fresh && entry->second != frame.body) {
        return {Refuse(frame.id, "invalid_argument", "this id has another body")};
      }
      return Stream(frame.id, 0);
    }
    if (bodies_.count(frame.id) == 0) return {Refuse(frame.id, "not_found", "no such request")};
    if (frame.type == "cancel") return {{{"done", frame.id, DoneBody(0, "cancelled")}}};
    const auto body = Json::Parse(frame.body, "resume");
    return Stream(frame.id, body.ok() ? body->Find("seq")->as_int() : 0);
  }

 private:
  FakeAction Refuse(const std::string& id, const char* code, const char* message) {
    return {{"error", id,
             StrCat(R"({"code":")", code, R"(","message":")", message,
                    R"(","param":null,"retryable":false,"retry_after_ms":null})")}};
  }

  std::vector<FakeAction> Stream(const std::string& id, int64_t from) {
    std::vector<FakeAction> actions = {{{"accepted", id, kAccepted}}};
    for (int64_t i = from; i < options_.tokens; ++i) {
      if (i == options_.break_before_token) {
        options_.break_before_token = -1;
        actions.push_back({.frame = {}, .disconnect = true});
        return actions;
      }
      if (i == options_.skip_token_once) {
        options_.skip_token_once = -1;
        continue;
      }
      actions.push_back(
          {{"tokens", id,
            StrCat(R"({"seq":)", i, R"(,"token_ids":[)", 100 + i, R"(],"text":"t)", i, R"( "})")},
           options_.token_delay_ms});
    }
    actions.push_back({{"done", id, DoneBody(options_.tokens, "stop")}});
    return actions;
  }

  FakeServiceOptions options_;
  std::map<std::string, std::string> bodies_;
};

}  // namespace

FakeServer::Handler FakeService(FakeServiceOptions options) {
  return
      [log = std::make_shared<FakeLog>(options)](const Frame& frame) { return log->Answer(frame); };
}

}  // namespace echelon
