#include "coordinator/client_api.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "common/strings.h"

namespace echelon {

namespace {

constexpr int64_t kMessagesMax = 4096;
constexpr int64_t kBiasMax = 1024;
constexpr int64_t kStopMax = 16;
constexpr size_t kStopBytesMax = 256;
constexpr int64_t kStopIdsMax = 64;
constexpr int64_t kLogprobsMax = 20;
constexpr int64_t kDeadlineMsMax = int64_t{7} * 24 * 3600 * 1000;  // a week
constexpr int64_t kTokensMax =
    1 << 30;  // far above any context: the context itself is checked later

uint64_t HashBytes(std::string_view bytes) {  // FNV-1a
  uint64_t hash = 0xCBF29CE484222325ULL;
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
  return hash;
}

Error WrongType(const std::string& field, std::string_view wanted, const Json& got) {
  return InvalidArgument(StrCat(field, " must be ", wanted, ", not ", got.KindName()), field);
}

// The member, or null where it is absent or null.
const Json* Given(const Json& body, std::string_view field) {
  const Json* value = body.Find(field);
  return value == nullptr || value->is_null() ? nullptr : value;
}

Result<int64_t> IntIn(const Json& value, const std::string& field, int64_t low, int64_t high) {
  if (!value.is_number()) return WrongType(field, "an integer", value);
  if (!value.is_int() || value.as_int() < low || value.as_int() > high) {
    return InvalidArgument(
        StrCat(field, " must be an integer from ", low, " to ", high, ", not ", value.Dump()),
        field);
  }
  return value.as_int();
}

struct NumberField {
  const char* name;
  double low, high;
  bool above_low;  // low itself is refused
  float SamplingParams::*member;
};
constexpr NumberField kNumberFields[] = {
    {"temperature", 0, 100, false, &SamplingParams::temperature},
    {"top_p", 0, 1, true, &SamplingParams::top_p},
    {"min_p", 0, 1, false, &SamplingParams::min_p},
    {"repetition_penalty", 1e-6, 100, false, &SamplingParams::repetition_penalty},
    {"presence_penalty", -100, 100, false, &SamplingParams::presence_penalty},
    {"frequency_penalty", -100, 100, false, &SamplingParams::frequency_penalty},
};

Status ParseNumbers(const Json& body, SamplingParams& params) {
  for (const NumberField& field : kNumberFields) {
    const Json* value = Given(body, field.name);
    if (value == nullptr) continue;
    if (!value->is_number()) return WrongType(field.name, "a number", *value);
    const double number = value->as_double();
    const auto narrow = static_cast<float>(number);
    const bool low_ok = field.above_low ? number > field.low && narrow > 0.0f : number >= field.low;
    if (!std::isfinite(number) || !low_ok || number > field.high) {
      return InvalidArgument(
          StrCat(field.name, " must be a number ", field.above_low ? "above " : "from ", field.low,
                 " to ", field.high, ", not ", value->Dump()),
          field.name);
    }
    params.*field.member = narrow;
  }
  return Status();
}

Status ParseBias(const Json& body, int64_t vocab, SamplingParams& params) {
  const Json* bias = Given(body, "logit_bias");
  if (bias == nullptr) return Status();
  const std::string name = "logit_bias";
  if (!bias->is_object()) return WrongType(name, "an object", *bias);
  if (static_cast<int64_t>(bias->as_object().size()) > kBiasMax) {
    return InvalidArgument(
        StrCat(name, " has ", bias->as_object().size(), " entries, the limit is ", kBiasMax), name);
  }
  for (const auto& [key, value] : bias->as_object()) {
    int32_t id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0 || id >= vocab) {
      return InvalidArgument(
          StrCat(name, ": \"", key.substr(0, 32), "\" is no token id from 0 to ", vocab - 1), name);
    }
    if (!value.is_number()) return WrongType(name, "an object of numbers", value);
    if (!(std::fabs(value.as_double()) <= 100)) {
      return InvalidArgument(
          StrCat(name, " of token ", id, " must be from -100 to 100, not ", value.Dump()), name);
    }
    params.logit_bias.emplace_back(id, static_cast<float>(value.as_double()));
  }
  std::sort(params.logit_bias.begin(), params.logit_bias.end());
  const auto same = std::adjacent_find(params.logit_bias.begin(), params.logit_bias.end(),
                                       [](auto& a, auto& b) { return a.first == b.first; });
  if (same != params.logit_bias.end()) {  // "7" and "07"
    return InvalidArgument(StrCat(name, " names token ", same->first, " twice"), name);
  }
  return Status();
}

Result<std::vector<int32_t>> ParseIds(const Json& array, const std::string& field, int64_t vocab,
                                      int64_t count_max) {
  if (static_cast<int64_t>(array.as_array().size()) > count_max) {
    return InvalidArgument(
        StrCat(field, " has ", array.as_array().size(), " entries, the limit is ", count_max),
        field);
  }
  std::vector<int32_t> ids;
  ids.reserve(array.as_array().size());
  for (const Json& item : array.as_array()) {
    ASSIGN_OR_RETURN(const int64_t id, IntIn(item, field, 0, vocab - 1));
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

Status ParseStops(const Json& body, int64_t vocab, Request& request) {
  if (const Json* stop = Given(body, "stop")) {
    if (!stop->is_string() && !stop->is_array()) {
      return WrongType("stop", "a string or an array of strings", *stop);
    }
    const Json::Array one = stop->is_string() ? Json::Array{*stop} : stop->as_array();
    if (static_cast<int64_t>(one.size()) > kStopMax) {
      return InvalidArgument(StrCat("stop has ", one.size(), " strings, the limit is ", kStopMax),
                             "stop");
    }
    for (const Json& item : one) {
      if (!item.is_string()) return WrongType("stop", "an array of strings", item);
      const std::string& text = item.as_string();
      if (text.empty() || text.size() > kStopBytesMax) {
        return InvalidArgument(
            StrCat("a stop string must have 1 to ", kStopBytesMax, " bytes, not ", text.size()),
            "stop");
      }
      request.stop.push_back(text);
    }
  }
  if (const Json* ids = Given(body, "stop_token_ids")) {
    if (!ids->is_array()) return WrongType("stop_token_ids", "an array of token ids", *ids);
    ASSIGN_OR_RETURN(request.stop_token_ids, ParseIds(*ids, "stop_token_ids", vocab, kStopIdsMax));
  }
  return Status();
}

// A content of parts becomes one text, a line for each.
Result<std::string> JoinTextParts(const Json::Array& parts, const std::string& field) {
  std::string text;
  for (const Json& part : parts) {
    const Json* type = part.Find("type");
    const Json* words = part.Find("text");
    if (type == nullptr || !type->is_string() || type->as_string() != "text" || words == nullptr ||
        !words->is_string()) {
      Error error = Unsupported(
          StrCat(field, " may have parts {\"type\": \"text\", \"text\": \"...\"} alone"));
      error.field = field;
      return error;
    }
    if (&part != &parts.front()) text += '\n';
    text += words->as_string();
  }
  return text;
}

Status ParseMessages(const Json& messages, Request& request) {
  const std::string name = "messages";
  if (!messages.is_array()) return WrongType(name, "an array", messages);
  const auto count = static_cast<int64_t>(messages.as_array().size());
  if (count < 1 || count > kMessagesMax) {
    return InvalidArgument(StrCat(name, " must have 1 to ", kMessagesMax, " entries, not ", count),
                           name);
  }
  for (int64_t i = 0; i < count; ++i) {
    const Json& message = messages.as_array()[i];
    if (!message.is_object()) return WrongType(StrCat(name, "[", i, "]"), "an object", message);
    for (const char* key : {"role", "content"}) {
      const Json* value = message.Find(key);
      const std::string field = StrCat(name, "[", i, "].", key);
      if (value == nullptr) return InvalidArgument(StrCat(field, " is missing"), field);
      const bool parts = value->is_array() && std::string_view(key) == "content";
      if (!value->is_string() && !parts) return WrongType(field, "a string", *value);
    }
  }
  request.messages = messages;
  for (Json& message : request.messages.as_array()) {
    const Json* content = message.Find("content");
    if (!content->is_array()) continue;
    ASSIGN_OR_RETURN(std::string text, JoinTextParts(content->as_array(), "messages.content"));
    message.Set("content", std::move(text));
  }
  return Status();
}

Status ParsePrompt(const Json& body, int64_t vocab, Request& request) {
  const Json* prompt = Given(body, "prompt");
  const Json* messages = Given(body, "messages");
  if ((prompt == nullptr) == (messages == nullptr)) {
    return InvalidArgument(prompt == nullptr ? "one of prompt and messages is required"
                                             : "only one of prompt and messages may be given",
                           "prompt");
  }
  if (messages != nullptr) return ParseMessages(*messages, request);
  if (prompt->is_string()) {
    if (prompt->as_string().empty()) return InvalidArgument("prompt is empty", "prompt");
    request.prompt_text = prompt->as_string();
    return Status();
  }
  if (!prompt->is_array()) return WrongType("prompt", "a string or an array of token ids", *prompt);
  if (prompt->as_array().empty()) return InvalidArgument("prompt is empty", "prompt");
  ASSIGN_OR_RETURN(request.prompt_ids, ParseIds(*prompt, "prompt", vocab, kTokensMax));
  return Status();
}

Status ParseBool(const Json& body, const char* field, bool& out) {
  const Json* value = Given(body, field);
  if (value == nullptr) return Status();
  if (!value->is_bool()) return WrongType(field, "a bool", *value);
  out = value->as_bool();
  return Status();
}

// `logprobs`: K (completions), or a bool with top_logprobs (chat completions).
Status ParseLogprobs(const Json& body, SamplingParams& params) {
  const Json* logprobs = Given(body, "logprobs");
  const Json* top = Given(body, "top_logprobs");
  int64_t top_count = 0;
  if (top != nullptr) {
    ASSIGN_OR_RETURN(top_count, IntIn(*top, "top_logprobs", 0, kLogprobsMax));
  }
  if (logprobs != nullptr && !logprobs->is_bool()) {
    ASSIGN_OR_RETURN(const int64_t count, IntIn(*logprobs, "logprobs", 0, kLogprobsMax));
    params.logprobs = static_cast<int32_t>(std::max(count, top_count));
  } else if (logprobs != nullptr && logprobs->as_bool()) {
    params.logprobs = static_cast<int32_t>(top_count);
  } else if (top_count > 0) {
    return InvalidArgument("top_logprobs needs logprobs true", "top_logprobs");
  }
  if (const Json* prompt = Given(body, "prompt_logprobs")) {
    ASSIGN_OR_RETURN(const int64_t count, IntIn(*prompt, "prompt_logprobs", 0, kLogprobsMax));
    params.prompt_logprobs = static_cast<int32_t>(count);
  }
  return Status();
}

Status ParseCounts(const Json& body, const SubmitLimits& limits, Request& request) {
  for (const char* field : {"max_tokens", "max_completion_tokens"}) {
    const Json* value = Given(body, field);
    if (value == nullptr) continue;
    ASSIGN_OR_RETURN(const int64_t count, IntIn(*value, field, 0, kTokensMax));
    if (request.max_tokens && *request.max_tokens != count) {
      return InvalidArgument("max_tokens and max_completion_tokens differ", field);
    }
    request.max_tokens = static_cast<int32_t>(count);
  }
  if (const Json* value = Given(body, "top_k")) {
    ASSIGN_OR_RETURN(const int64_t k,
                     IntIn(*value, "top_k", -1, std::numeric_limits<int32_t>::max()));
    request.params.top_k = static_cast<int32_t>(std::max<int64_t>(k, 0));
  }
  if (const Json* value = Given(body, "seed")) {
    ASSIGN_OR_RETURN(const int64_t seed,
                     IntIn(*value, "seed", 0, std::numeric_limits<int64_t>::max()));
    request.params.seed = static_cast<uint64_t>(seed);
    request.seed_given = true;
  }
  for (const char* field : {"n", "best_of"}) {
    if (const Json* value = Given(body, field)) RETURN_IF_ERROR(IntIn(*value, field, 1, 1));
  }
  request.deadline_ms = limits.deadline_default_ms;
  if (const Json* value = Given(body, "deadline_ms")) {
    ASSIGN_OR_RETURN(request.deadline_ms, IntIn(*value, "deadline_ms", 1, kDeadlineMsMax));
  }
  return Status();
}

Status ParseSpeculation(const Json& body, const SubmitLimits& limits, Request& request) {
  request.speculate = limits.speculate_default;
  const Json* value = Given(body, "speculation");
  if (value == nullptr) return Status();
  if (!value->is_string()) return WrongType("speculation", "a string", *value);
  request.speculate = value->as_string() == "prompt_lookup";
  if (request.speculate || value->as_string() == "off") return Status();
  return InvalidArgument(
      StrCat("speculation must be \"off\" or \"prompt_lookup\", not ", value->Dump()),
      "speculation");
}

// Fields whose silent absence would change the answer, and what this service has in their place.
struct RefusedField {
  const char* name;
  const char* instead;
};
constexpr RefusedField kRefusedFields[] = {
    {"tools", ""},
    {"tool_choice", ""},
    {"functions", ""},
    {"function_call", ""},
    {"response_format", ""},
    {"json_schema", ""},
    {"structured_outputs", ""},
    {"guided_json", ""},
    {"guided_regex", ""},
    {"guided_choice", ""},
    {"guided_grammar", ""},
    {"grammar", ""},
    {"echo", ""},
    {"suffix", ""},
    {"images", ""},
    {"min_tokens", ""},
    {"bad_words", "logit_bias"},
    {"chat_template", ""},
    {"chat_template_kwargs", ""},
    {"n_predict", "max_tokens"},
    {"repeat_penalty", "repetition_penalty"},
};

// Whether a field asks for nothing.
bool IsNothing(const Json& value) {
  const Json* type = value.Find("type");  // of a response_format
  return (value.is_bool() && !value.as_bool()) || (value.is_int() && value.as_int() == 0) ||
         (value.is_array() && value.as_array().empty()) ||
         (value.is_object() && value.as_object().empty()) ||
         (value.is_string() && (value.as_string().empty() || value.as_string() == "none")) ||
         (type != nullptr && type->is_string() && type->as_string() == "text");
}

Status RefuseUnsupported(const Json& body) {
  for (const auto& [name, instead] : kRefusedFields) {
    const Json* value = Given(body, name);
    if (value == nullptr || IsNothing(*value)) continue;
    Error error = Unsupported(StrCat(name, " is not supported by this service",
                                     *instead != 0 ? "; it has " : "", instead));
    error.field = name;
    return error;
  }
  return Status();
}

// Values of a body: the ids of a million tokens, some 40 MB while they are parsed.
constexpr size_t kBodyValuesMax = size_t{1} << 20;

Result<Json> ParseObject(std::string_view body) {
  // 16: a submit body nests 4 deep, templates' extra message fields a little more.
  Result<Json> json = Json::Parse(
      body, "body", {.bytes_max = body.size(), .depth_max = 16, .values_max = kBodyValuesMax});
  if (!json.ok()) return InvalidArgument(json.error().message);
  if (!json->is_object()) {
    return InvalidArgument(StrCat("the body must be a JSON object, not ", json->KindName()));
  }
  return json;
}

}  // namespace

bool IsValidRequestId(std::string_view id) {
  if (id.empty() || id.size() > kRequestIdBytesMax) return false;
  return std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == ':' || c == '-';
  });
}

Result<Request> ParseSubmit(std::string_view id, std::string_view text,
                            const SubmitLimits& limits) {
  ASSIGN_OR_RETURN(const Json body, ParseObject(text));
  Request request;
  request.id = std::string(id);
  request.body_hash = HashBytes(text);
  request.body_bytes = text.size();
  RETURN_IF_ERROR(RefuseUnsupported(body));
  RETURN_IF_ERROR(ParsePrompt(body, limits.vocab_size, request));
  RETURN_IF_ERROR(ParseNumbers(body, request.params));
  RETURN_IF_ERROR(ParseBias(body, limits.vocab_size, request.params));
  RETURN_IF_ERROR(ParseCounts(body, limits, request));
  RETURN_IF_ERROR(ParseLogprobs(body, request.params));
  RETURN_IF_ERROR(ParseStops(body, limits.vocab_size, request));
  RETURN_IF_ERROR(ParseBool(body, "ignore_eos", request.ignore_eos));
  RETURN_IF_ERROR(ParseBool(body, "stream", request.stream));
  RETURN_IF_ERROR(ParseSpeculation(body, limits, request));
  return request;
}

Result<int64_t> ParseResume(std::string_view text) {
  ASSIGN_OR_RETURN(const Json body, ParseObject(text));
  const Json* seq = Given(body, "seq");
  if (seq == nullptr) return int64_t{0};
  return IntIn(*seq, "seq", 0, kTokensMax);
}

Status ParseEmpty(std::string_view text) {
  Result<Json> body = ParseObject(text);
  return body.ok() ? Status() : Status(body.error());
}

}  // namespace echelon
