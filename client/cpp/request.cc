#include "client/cpp/request.h"

#include <utility>

namespace echelon {

namespace {

template <typename T>
void SetIf(Json& body, const char* name, const std::optional<T>& value) {
  if (value) body.Set(name, *value);
}

Json IdsToJson(const std::vector<int32_t>& ids) {
  Json out = Json::MakeArray();
  for (const int32_t id : ids) out.Append(int64_t{id});
  return out;
}

}  // namespace

Json GenerationRequest::ToJson() const {
  Json body = Json::MakeObject();
  const bool chat = std::holds_alternative<Json>(prompt);
  if (chat) {
    body.Set("messages", std::get<Json>(prompt));
  } else if (std::holds_alternative<std::string>(prompt)) {
    body.Set("prompt", std::get<std::string>(prompt));
  } else {
    body.Set("prompt", IdsToJson(std::get<std::vector<int32_t>>(prompt)));
  }
  SetIf(body, "max_tokens", max_tokens);
  SetIf(body, "temperature", temperature);
  SetIf(body, "top_p", top_p);
  SetIf(body, "min_p", min_p);
  SetIf(body, "top_k", top_k);
  SetIf(body, "repetition_penalty", repetition_penalty);
  SetIf(body, "presence_penalty", presence_penalty);
  SetIf(body, "frequency_penalty", frequency_penalty);
  SetIf(body, "seed", seed);
  SetIf(body, "prompt_logprobs", prompt_logprobs);
  SetIf(body, "deadline_ms", deadline_ms);
  // Completions count their log-probabilities in `logprobs`, chat completions in `top_logprobs`.
  if (logprobs && chat) body.Set("logprobs", true);
  SetIf(body, chat ? "top_logprobs" : "logprobs", logprobs);
  if (!stop.empty()) {
    Json texts = Json::MakeArray();
    for (const std::string& text : stop) texts.Append(text);
    body.Set("stop", std::move(texts));
  }
  if (!stop_token_ids.empty()) body.Set("stop_token_ids", IdsToJson(stop_token_ids));
  if (!speculation.empty()) body.Set("speculation", speculation);
  if (ignore_eos) body.Set("ignore_eos", true);
  return body;
}

}  // namespace echelon
