// The other half of client_api.h: what the service says.

#include <algorithm>

#include "common/strings.h"
#include "coordinator/client_api.h"

namespace echelon {

namespace {

double Seconds(int64_t from_us, int64_t to_us) {
  return from_us == 0 || to_us == 0 ? 0.0 : static_cast<double>(to_us - from_us) / 1e6;
}

Json TopJson(const std::vector<TokenLogprob>& top) {
  Json out = Json::MakeArray();
  for (const TokenLogprob& t : top) {
    Json entry = Json::MakeObject();
    entry.Set("id", int64_t{t.id});
    entry.Set("logprob", static_cast<double>(t.logprob));
    out.Append(std::move(entry));
  }
  return out;
}

Json TimingsJson(const Sequence& sequence) {
  const SequenceTimes& times = sequence.times;
  const double decode_s = Seconds(times.first_token, times.last_token);
  const int32_t decoded = sequence.generated() - 1;  // the first token is the prefill's
  Json out = Json::MakeObject();
  out.Set("queue_s", Seconds(times.accepted, times.first_planned));
  out.Set("ttft_s", Seconds(times.accepted, times.first_token));
  out.Set("decode_tokens_per_s", decode_s > 0 && decoded > 0 ? decoded / decode_s : 0.0);
  out.Set("total_s", Seconds(times.accepted, times.finished));
  out.Set("tokens_drafted", sequence.drafts.drafted);
  out.Set("drafts_accepted", sequence.drafts.accepted);
  return out;
}

Json RanksJson(const Sequence& sequence, const ServiceFacts& facts) {
  Json out = Json::MakeArray();
  for (size_t rank = 0; rank < sequence.ranks().size(); ++rank) {
    const RankTotals& totals = sequence.ranks()[rank];
    Json entry = Json::MakeObject();
    entry.Set("rank", static_cast<int64_t>(rank));
    entry.Set("host", rank < facts.hosts.size() ? facts.hosts[rank] : std::string());
    entry.Set("steps", totals.steps);
    entry.Set("compute_s", totals.compute_s);
    entry.Set("comm_hidden_s", totals.comm_hidden_s);
    entry.Set("comm_exposed_s", totals.comm_exposed_s);
    out.Append(std::move(entry));
  }
  return out;
}

// The codes that docs/client-api.md lists.
const char* ClientCode(ErrorCode code) {
  return ErrorCodeName(code == ErrorCode::kCorrupt ? ErrorCode::kInternal : code);
}

}  // namespace

std::string AcceptedBody(const Sequence& sequence, const ServiceFacts& facts,
                         int64_t created_unix_s) {
  Json body = Json::MakeObject();
  body.Set("prompt_tokens", int64_t{sequence.prompt_size()});
  body.Set("max_tokens", int64_t{sequence.max_tokens()});
  body.Set("seed", static_cast<int64_t>(sequence.request().params.seed));
  body.Set("model", facts.model);
  body.Set("created", created_unix_s);
  return body.Dump();
}

std::string TokensBody(const Sequence& sequence, int32_t begin, int32_t end) {
  const bool with_top = sequence.request().params.logprobs >= 0;
  Json ids = Json::MakeArray();
  Json tops = Json::MakeArray();
  std::string text;
  for (int32_t i = begin; i < end; ++i) {
    const TokenLogEntry& entry = sequence.log()[i];
    ids.Append(int64_t{entry.token});
    text += entry.text;
    if (with_top) tops.Append(TopJson(entry.top));
  }
  Json body = Json::MakeObject();
  body.Set("seq", int64_t{begin});
  body.Set("token_ids", std::move(ids));
  body.Set("text", std::move(text));
  if (with_top) body.Set("logprobs", std::move(tops));
  return body.Dump();
}

std::string DoneBody(const Sequence& sequence, const ServiceFacts& facts) {
  Json usage = Json::MakeObject();
  usage.Set("prompt_tokens", int64_t{sequence.prompt_size()});
  usage.Set("completion_tokens", int64_t{sequence.generated()});
  usage.Set("total_tokens", int64_t{sequence.known_size()});
  Json layout = Json::MakeObject();
  layout.Set("tp", facts.tp);
  layout.Set("pp", facts.pp);
  layout.Set("sp", facts.sp);
  Json prompt_ids = Json::MakeArray();
  for (const int32_t id : sequence.prompt()) prompt_ids.Append(int64_t{id});
  Json body = Json::MakeObject();
  body.Set("seq", int64_t{sequence.generated()});
  body.Set("finish_reason", FinishReasonName(sequence.finish_reason()));
  body.Set("text", sequence.rest_text());
  body.Set("usage", std::move(usage));
  body.Set("timings", TimingsJson(sequence));
  body.Set("seed", static_cast<int64_t>(sequence.request().params.seed));
  body.Set("layout", std::move(layout));
  body.Set("ranks", RanksJson(sequence, facts));
  body.Set("prompt_ids", std::move(prompt_ids));
  if (sequence.request().params.prompt_logprobs >= 0) {
    Json tops = Json::MakeArray();
    tops.Append(nullptr);  // nothing precedes the first position
    for (const auto& top : sequence.prompt_logprobs()) tops.Append(TopJson(top));
    body.Set("prompt_logprobs", std::move(tops));
  }
  return body.Dump();
}

std::string ErrorBody(const Error& error, std::optional<int64_t> retry_after_ms) {
  Json body = Json::MakeObject();
  body.Set("code", ClientCode(error.code));
  body.Set("message", error.message);
  body.Set("param", error.field.empty() ? Json() : Json(error.field));
  body.Set("retryable", error.code == ErrorCode::kUnavailable || retry_after_ms.has_value());
  body.Set("retry_after_ms", retry_after_ms ? Json(*retry_after_ms) : Json());
  body.Set("rank", error.rank >= 0 ? Json(error.rank) : Json());
  body.Set("host", error.host.empty() ? Json() : Json(error.host));
  return body.Dump();
}

}  // namespace echelon
