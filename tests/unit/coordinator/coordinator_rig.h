#pragma once
// What the coordinator's tests start from: a Coordinator with every part of the world faked.

#include <memory>
#include <string>
#include <vector>

#include "common/json.h"
#include "common/strings.h"
#include "coordinator/coordinator.h"
#include "tests/support/coordinator_fakes.h"

namespace echelon::testing {

inline Request MakeRequest(std::vector<int32_t> prompt, int32_t max_tokens, uint64_t seed = 7) {
  Request request;
  request.id = "r";
  request.prompt_ids = std::move(prompt);
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  request.params.seed = seed;
  return request;
}

inline Json ParseBody(const FakeTransport::Sent& sent) {
  return Json::Parse(sent.body, "event").value();
}

class Rig {
 public:
  explicit Rig(ServiceConfig config = {}, FakeGroup::Options options = {})
      : config(std::move(config)), group(std::move(options), clock) {
    frontend = std::make_unique<Frontend>(
        this->config.frontend,
        SubmitLimits{ByteTokenizer::kVocab, this->config.scheduler.deadline_default_ms}, transport,
        clock);
    frontend->SetFacts({"fake", 1, 1, 1, "standard", {}});
    encoder = MakeInlineEncoder(tokenizer, nullptr);
    coordinator = std::make_unique<Coordinator>(
        CoordinatorParts{this->config, clock, logger, tokenizer, *frontend, *encoder, group,
                         metrics, health, [] { return uint64_t{84}; }});
  }
  // Turns with a millisecond between them.
  void Turn(int turns = 1) {
    for (int i = 0; i < turns; ++i) {
      clock.AdvanceUs(1000);
      coordinator->Tick();
      coordinator->CheckInvariants();
    }
  }
  void Submit(const std::string& identity, const std::string& id, const std::string& body) {
    transport.Push(identity, "submit", id, body);
  }
  // The events of `identity` so far, as "accepted", "tokens:0+3", "done:length", "error:code".
  std::vector<std::string> Events(const std::string& identity) {
    std::vector<std::string> out;
    for (const FakeTransport::Sent& sent : transport.Take(identity)) {
      const Json body = ParseBody(sent);
      std::string text = sent.type;
      if (sent.type == "tokens") {
        text = StrCat("tokens:", body.Find("seq")->as_int(), "+",
                      body.Find("token_ids")->as_array().size());
      }
      if (sent.type == "done") text = StrCat("done:", body.Find("finish_reason")->as_string());
      if (sent.type == "error") text = StrCat("error:", body.Find("code")->as_string());
      out.push_back(text);
      last = body;
    }
    return out;
  }

  ServiceConfig config;
  ManualClock clock;
  Logger logger{"test", LogLevel::kError};
  ByteTokenizer tokenizer;
  FakeTransport transport;
  Metrics metrics{"test", "fake"};
  Health health;
  FakeGroup group;
  std::unique_ptr<Frontend> frontend;
  std::unique_ptr<PromptEncoder> encoder;
  std::unique_ptr<Coordinator> coordinator;
  Json last;  // the last event's body
};

}  // namespace echelon::testing
