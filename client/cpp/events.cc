#include "client/cpp/events.h"

#include <limits>

#include "common/strings.h"

namespace echelon {

namespace {

// Reads the fields of one JSON object. The first wrong field is kept as the error; what is read
// after it yields defaults, so that a decoder reads as a plain list of fields.
class FieldReader {
 public:
  FieldReader(const Json& object, std::string_view what) : object_(object), what_(what) {
    if (!object.is_object()) Fail(StrCat("is ", object.KindName(), ", not an object"));
  }

  // Every integer of the API but a rank is a count: negative ones are refused.
  int64_t Int(std::string_view name, bool required = true) {
    const Json* field = Find(name, required);
    if (field == nullptr) return 0;
    if (!field->is_int() || field->as_int() < 0) {
      Fail(StrCat("field ", name, " is no integer >= 0"));
      return 0;
    }
    return field->as_int();
  }
  double Number(std::string_view name, bool required = true) {
    const Json* field = Find(name, required);
    if (field == nullptr) return 0.0;
    if (!field->is_number()) {
      Fail(StrCat("field ", name, " is ", field->KindName(), ", not a number"));
      return 0.0;
    }
    return field->as_double();
  }
  bool Bool(std::string_view name, bool required = true) {
    const Json* field = Find(name, required);
    if (field == nullptr) return false;
    if (!field->is_bool()) {
      Fail(StrCat("field ", name, " is ", field->KindName(), ", not true or false"));
      return false;
    }
    return field->as_bool();
  }
  std::string String(std::string_view name, bool required = true) {
    const Json* field = Find(name, required);
    if (field == nullptr) return "";
    if (!field->is_string()) {
      Fail(StrCat("field ", name, " is ", field->KindName(), ", not a string"));
      return "";
    }
    return field->as_string();
  }
  // The array, or null where it is absent.
  const Json::Array* Array(std::string_view name, bool required) {
    const Json* field = Find(name, required);
    if (field == nullptr) return nullptr;
    if (!field->is_array()) {
      Fail(StrCat("field ", name, " is ", field->KindName(), ", not an array"));
      return nullptr;
    }
    return &field->as_array();
  }
  const Json* Object(std::string_view name) {
    const Json* field = Find(name, true);
    if (field == nullptr || field->is_object()) return field;
    Fail(StrCat("field ", name, " is ", field->KindName(), ", not an object"));
    return nullptr;
  }
  std::vector<int32_t> Ids(std::string_view name, bool required) {
    std::vector<int32_t> ids;
    const Json::Array* array = Array(name, required);
    if (array == nullptr) return ids;
    ids.reserve(array->size());
    for (const Json& item : *array) ids.push_back(TokenId(item, name));
    return ids;
  }
  int32_t TokenId(const Json& item, std::string_view name) {
    if (item.is_int() && item.as_int() >= 0 &&
        item.as_int() <= std::numeric_limits<int32_t>::max()) {
      return static_cast<int32_t>(item.as_int());
    }
    Fail(StrCat("field ", name, " holds something that is no token id"));
    return 0;
  }
  LogprobRow Row(const Json& row, std::string_view name) {
    LogprobRow out;
    if (!row.is_array()) {
      Fail(StrCat("field ", name, " holds a row that is no array"));
      return out;
    }
    for (const Json& item : row.as_array()) {
      const Json* id = item.Find("id");
      const Json* logprob = item.Find("logprob");
      // A log-probability of minus infinity cannot be written in JSON: it arrives as null.
      if (id == nullptr || logprob == nullptr || !(logprob->is_number() || logprob->is_null())) {
        Fail(StrCat("field ", name, " holds an entry without id and logprob"));
        return out;
      }
      out.push_back({TokenId(*id, name), logprob->is_null()
                                             ? -std::numeric_limits<double>::infinity()
                                             : logprob->as_double()});
    }
    return out;
  }

  void Fail(std::string problem) {
    if (!error_) error_ = Corrupt(StrCat("the service's ", what_, ": ", problem));
  }
  void Merge(const FieldReader& other) {
    if (!error_ && other.error_) error_ = other.error_;
  }
  template <typename T>
  Result<T> Finish(T value) {
    if (error_) return *error_;
    return value;
  }

 private:
  const Json* Find(std::string_view name, bool required) {
    const Json* field = object_.Find(name);
    if (field != nullptr && field->is_null()) field = nullptr;
    if (field == nullptr && required) Fail(StrCat("field ", name, " is missing"));
    return field;
  }

  const Json& object_;
  std::string what_;
  std::optional<Error> error_;
};

LayoutInfo ReadLayout(FieldReader& reader) {
  LayoutInfo layout;
  const Json* object = reader.Object("layout");
  if (object == nullptr) return layout;
  FieldReader fields(*object, "layout");
  layout = {fields.Int("tp"), fields.Int("pp"), fields.Int("sp")};
  reader.Merge(fields);
  return layout;
}

ErrorCode CodeOf(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(ErrorCode::kInternal); ++i) {
    if (name == ErrorCodeName(static_cast<ErrorCode>(i))) return static_cast<ErrorCode>(i);
  }
  return ErrorCode::kInternal;  // a code newer than this client
}

}  // namespace

Result<AcceptedEvent> DecodeAccepted(const Json& body) {
  FieldReader fields(body, "accepted");
  AcceptedEvent event;
  event.prompt_tokens = fields.Int("prompt_tokens");
  event.seed = fields.Int("seed");
  event.model = fields.String("model", false);
  return fields.Finish(std::move(event));
}

Result<TokensEvent> DecodeTokens(const Json& body) {
  FieldReader fields(body, "tokens");
  TokensEvent event;
  event.seq = fields.Int("seq");
  event.token_ids = fields.Ids("token_ids", true);
  event.text = fields.String("text");
  if (const Json::Array* rows = fields.Array("logprobs", false)) {
    for (const Json& row : *rows) event.logprobs.push_back(fields.Row(row, "logprobs"));
    if (event.logprobs.size() != event.token_ids.size()) {
      fields.Fail(StrCat("field logprobs has ", event.logprobs.size(), " rows for ",
                         event.token_ids.size(), " tokens"));
    }
  }
  return fields.Finish(std::move(event));
}

Result<DoneEvent> DecodeDone(const Json& body) {
  FieldReader fields(body, "done");
  DoneEvent event;
  event.seq = fields.Int("seq");
  event.finish_reason = fields.String("finish_reason");
  event.text = fields.String("text");
  event.seed = fields.Int("seed");
  event.prompt_ids = fields.Ids("prompt_ids", false);
  event.layout = ReadLayout(fields);
  if (const Json* usage = fields.Object("usage")) {
    FieldReader counts(*usage, "usage");
    event.prompt_tokens = counts.Int("prompt_tokens");
    event.completion_tokens = counts.Int("completion_tokens");
    fields.Merge(counts);
  }
  if (const Json* timings = fields.Object("timings")) {
    FieldReader seconds(*timings, "timings");
    event.queue_s = seconds.Number("queue_s", false);
    event.ttft_s = seconds.Number("ttft_s", false);
    event.decode_tokens_per_s = seconds.Number("decode_tokens_per_s", false);
    event.total_s = seconds.Number("total_s", false);
    fields.Merge(seconds);
  }
  if (const Json::Array* ranks = fields.Array("ranks", false)) {
    for (const Json& item : *ranks) {
      FieldReader rank(item, "ranks");
      event.ranks.push_back({rank.Int("rank"), rank.String("host", false), rank.Int("steps", false),
                             rank.Number("compute_s", false), rank.Number("comm_hidden_s", false),
                             rank.Number("comm_exposed_s", false)});
      fields.Merge(rank);
    }
  }
  if (const Json::Array* rows = fields.Array("prompt_logprobs", false)) {
    for (const Json& row : *rows) {
      if (row.is_null()) {
        event.prompt_logprobs.emplace_back(std::nullopt);
      } else {
        event.prompt_logprobs.emplace_back(fields.Row(row, "prompt_logprobs"));
      }
    }
  }
  return fields.Finish(std::move(event));
}

Result<ServiceError> DecodeServiceError(const Json& body) {
  FieldReader fields(body, "error");
  ServiceError event;
  event.error.code = CodeOf(fields.String("code"));
  event.error.message = fields.String("message");
  event.error.field = fields.String("param", false);
  event.retryable = fields.Bool("retryable", false);
  const Json* retry_after = body.Find("retry_after_ms");
  if (retry_after != nullptr && !retry_after->is_null()) {
    event.retry_after_ms = fields.Int("retry_after_ms");
  }
  const Json* rank = body.Find("rank");
  if (rank != nullptr && rank->is_int() && rank->as_int() >= 0 && rank->as_int() < (1 << 24)) {
    event.error.rank = static_cast<int>(rank->as_int());
  }
  event.error.host = fields.String("host", false);
  return fields.Finish(std::move(event));
}

Result<ServiceStatus> DecodeStatus(const Json& body) {
  FieldReader fields(body, "status");
  ServiceStatus status;
  status.state = fields.String("state");
  status.version = fields.String("version", false);
  status.model = fields.String("model", false);
  status.schedule = fields.String("schedule", false);
  status.message = fields.String("message", false);
  status.epoch = fields.Int("epoch", false);
  status.layout = ReadLayout(fields);
  status.running = fields.Int("running", false);
  status.waiting = fields.Int("waiting", false);
  status.kv_pages_free = fields.Int("kv_pages_free", false);
  status.kv_pages_total = fields.Int("kv_pages_total", false);
  status.context_max = fields.Int("context_max", false);
  if (const Json::Array* ranks = fields.Array("ranks", false)) {
    for (const Json& item : *ranks) {
      FieldReader rank(item, "ranks");
      status.ranks.push_back(
          {rank.Int("rank"), rank.String("host", false), rank.String("backend", false),
           rank.Int("bytes_done", false), rank.Int("bytes_total", false),
           rank.Bool("joined", false), rank.Bool("ready", false), rank.Int("token_bytes", false),
           rank.Int("kv_position_bytes", false), rank.Int("read_bytes_per_s", false)});
      fields.Merge(rank);
    }
  }
  return fields.Finish(std::move(status));
}

Json LogprobRowToJson(const LogprobRow& row) {
  Json out = Json::MakeArray();
  for (const Logprob& entry : row) {
    Json item = Json::MakeObject();
    item.Set("id", int64_t{entry.id});
    item.Set("logprob", entry.logprob);
    out.Append(std::move(item));
  }
  return out;
}

Json LayoutToJson(const LayoutInfo& layout) {
  Json out = Json::MakeObject();
  out.Set("tp", layout.tp);
  out.Set("pp", layout.pp);
  out.Set("sp", layout.sp);
  return out;
}

}  // namespace echelon
