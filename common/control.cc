#include "common/control.h"

#include "common/strings.h"
#include "common/wire.h"

namespace echelon {

namespace {

constexpr uint32_t kMagic = 0x31574345;  // "ECW1"
constexpr uint32_t kTextMax = 1 << 20;

bool IsKnown(uint32_t type) {
  switch (static_cast<ControlType>(type)) {
    case ControlType::kJoin:
    case ControlType::kProgress:
    case ControlType::kReady:
    case ControlType::kResult:
    case ControlType::kFailure:
    case ControlType::kHeartbeat:
    case ControlType::kWelcome:
    case ControlType::kPlan:
    case ControlType::kShutdown:
    case ControlType::kRefuse:
      return true;
  }
  return false;
}

template <typename T>
Result<T> Finish(const WireReader& in, T message, const char* name) {
  if (!in.AtEnd()) return Corrupt(StrCat("control frame: not one ", name, " message"));
  return message;
}

}  // namespace

std::string EncodeHeader(const ControlHeader& header) {
  WireWriter out;
  out.Put(kMagic);
  out.Put(static_cast<uint32_t>(header.type));
  out.Put(header.epoch);
  out.Put(header.rank);
  out.Put(uint32_t{0});
  return out.Take();
}

Result<ControlHeader> DecodeHeader(std::string_view bytes) {
  WireReader in(bytes);
  ControlHeader header;
  const auto magic = in.Get<uint32_t>();
  const auto type = in.Get<uint32_t>();
  header.epoch = in.Get<uint64_t>();
  header.rank = in.Get<uint32_t>();
  const auto reserved = in.Get<uint32_t>();
  if (!in.AtEnd() || magic != kMagic || reserved != 0) return Corrupt("control frame: bad header");
  if (!IsKnown(type)) return Corrupt(StrCat("control frame: unknown type ", type));
  header.type = static_cast<ControlType>(type);
  return header;
}

std::string Encode(const JoinMessage& m) {
  WireWriter out;
  out.Put(m.protocol);
  out.Put(m.world);
  out.Put(m.pid);
  out.PutString(m.build);
  out.PutString(m.host);
  out.PutString(m.interface);
  return out.Take();
}

Result<JoinMessage> DecodeJoin(std::string_view bytes) {
  WireReader in(bytes);
  JoinMessage m;
  m.protocol = in.Get<uint32_t>();
  m.world = in.Get<uint32_t>();
  m.pid = in.Get<uint64_t>();
  m.build = in.GetString(kTextMax);
  m.host = in.GetString(kTextMax);
  m.interface = in.GetString(kTextMax);
  return Finish(in, std::move(m), "join");
}

std::string Encode(const WelcomeMessage& m) {
  WireWriter out;
  out.PutString(m.config_yaml);
  return out.Take();
}

Result<WelcomeMessage> DecodeWelcome(std::string_view bytes) {
  WireReader in(bytes);
  WelcomeMessage m;
  m.config_yaml = in.GetString(kTextMax);
  return Finish(in, std::move(m), "welcome");
}

std::string Encode(const ProgressMessage& m) {
  WireWriter out;
  out.Put(m.bytes_done);
  out.Put(m.bytes_total);
  return out.Take();
}

Result<ProgressMessage> DecodeProgress(std::string_view bytes) {
  WireReader in(bytes);
  ProgressMessage m;
  m.bytes_done = in.Get<uint64_t>();
  m.bytes_total = in.Get<uint64_t>();
  return Finish(in, m, "progress");
}

std::string Encode(const HeartbeatMessage& m) {
  if (m.awaited.empty()) return "";
  WireWriter out;
  out.Put(m.waited_ms);
  out.PutVector(m.awaited);
  out.Put(static_cast<uint8_t>(m.on_device));
  return out.Take();
}

Result<HeartbeatMessage> DecodeHeartbeat(std::string_view bytes) {
  if (bytes.empty()) return HeartbeatMessage{};
  WireReader in(bytes);
  HeartbeatMessage m;
  m.waited_ms = in.Get<uint64_t>();
  m.awaited = in.GetVector<uint32_t>(kAwaitedMax);
  m.on_device = in.Get<uint8_t>() != 0;
  return Finish(in, m, "heartbeat");
}

std::string Encode(const ReadyMessage& m) {
  WireWriter out;
  out.PutString(m.weights_fingerprint);
  out.PutString(m.numerics_fingerprint);
  out.PutString(m.backend);
  out.PutString(m.device);
  out.Put(m.weight_bytes);
  out.Put(m.kv_bytes);
  out.Put(m.token_bytes);
  out.Put(m.kv_position_bytes);
  out.Put(m.read_bytes_per_s);
  out.Put(m.kv_pages);
  out.Put(m.page_tokens);
  out.Put(m.context_max);
  out.Put(m.vocab_size);
  return out.Take();
}

Result<ReadyMessage> DecodeReady(std::string_view bytes) {
  WireReader in(bytes);
  ReadyMessage m;
  m.weights_fingerprint = in.GetString(kTextMax);
  m.numerics_fingerprint = in.GetString(kTextMax);
  m.backend = in.GetString(kTextMax);
  m.device = in.GetString(kTextMax);
  m.weight_bytes = in.Get<uint64_t>();
  m.kv_bytes = in.Get<uint64_t>();
  m.token_bytes = in.Get<uint64_t>();
  m.kv_position_bytes = in.Get<uint64_t>();
  m.read_bytes_per_s = in.Get<uint64_t>();
  m.kv_pages = in.Get<uint32_t>();
  m.page_tokens = in.Get<uint32_t>();
  m.context_max = in.Get<uint32_t>();
  m.vocab_size = in.Get<uint32_t>();
  return Finish(in, std::move(m), "ready");
}

std::string Encode(const FailureMessage& m) {
  WireWriter out;
  out.Put(static_cast<uint32_t>(m.error.code));
  out.PutString(m.error.message);
  out.PutString(m.error.field);
  out.Put(static_cast<int32_t>(m.error.rank));
  out.PutString(m.error.host);
  return out.Take();
}

Result<FailureMessage> DecodeFailure(std::string_view bytes) {
  WireReader in(bytes);
  FailureMessage m;
  const auto code = in.Get<uint32_t>();
  if (code > static_cast<uint32_t>(ErrorCode::kInternal)) return Corrupt("failure: unknown code");
  m.error.code = static_cast<ErrorCode>(code);
  m.error.message = in.GetString(kTextMax);
  m.error.field = in.GetString(kTextMax);
  m.error.rank = in.Get<int32_t>();
  m.error.host = in.GetString(kTextMax);
  return Finish(in, std::move(m), "failure");
}

std::string Encode(const RefuseMessage& m) {
  WireWriter out;
  out.PutString(m.reason);
  return out.Take();
}

Result<RefuseMessage> DecodeRefuse(std::string_view bytes) {
  WireReader in(bytes);
  RefuseMessage m;
  m.reason = in.GetString(kTextMax);
  return Finish(in, std::move(m), "refuse");
}

std::string BuildId() { return ECHELON_BUILD_ID; }

}  // namespace echelon
