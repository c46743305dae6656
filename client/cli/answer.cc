#include "client/cli/answer.h"

#include <cstdio>
#include <random>

#include "client/cli/errors.h"
#include "common/strings.h"

namespace echelon {

namespace {

constexpr int64_t kWaitMs = 50;  // how late an interrupt is noticed

template <typename... Values>
std::string Format(const char* format, Values... values) {
  char line[256];
  std::snprintf(line, sizeof line, format, values...);
  return line;
}

Json IdsToJson(const std::vector<int32_t>& ids) {
  Json out = Json::MakeArray();
  for (const int32_t id : ids) out.Append(int64_t{id});
  return out;
}

}  // namespace

int64_t DrawSeed() {
  std::random_device random;
  const uint64_t high = random();
  return static_cast<int64_t>(((high << 32) | random()) >> 11);
}

void ApplySampling(const SamplingOptions& options, GenerationRequest& request) {
  request.max_tokens = options.max_tokens;
  request.temperature = options.temperature;
  request.top_p = options.top_p;
  request.top_k = options.top_k;
  request.min_p = options.min_p;
  request.seed = options.seed ? *options.seed : DrawSeed();
  request.stop = options.stop;
}

Result<Completion> Ask(Service& service, const GenerationRequest& request, Interrupts& interrupts,
                       const std::function<void(std::string_view)>& on_text) {
  Client& client = service.client();
  ASSIGN_OR_RETURN(const std::string id, client.Submit(request.ToJson()));
  Completion answer;
  bool cancelled = false;
  while (true) {
    ASSIGN_OR_RETURN(const std::optional<StreamEvent> event, client.Next(kWaitMs, id));
    if (interrupts.Take()) {
      if (cancelled) return Error{ErrorCode::kCancelled, "interrupted"};  // the second Ctrl-C
      cancelled = true;
      RETURN_IF_ERROR(client.Cancel(id));
    }
    if (!event) {
      RETURN_IF_ERROR(service.Check());
      continue;
    }
    answer.Add(*event);
    if (const auto* tokens = std::get_if<TokensEvent>(&event->body)) on_text(tokens->text);
    if (const auto* done = std::get_if<DoneEvent>(&event->body)) on_text(done->text);
    if (answer.error) return Describe(*answer.error);
    if (event->IsLast()) return answer;
  }
}

std::string DescribeTimings(const Completion& answer) {
  const DoneEvent& done = answer.done;
  std::string out = Format(
      "%lld prompt tokens, %zu tokens (%s), seed %lld; time to first token %.3f s, %.1f tokens/s\n",
      static_cast<long long>(done.prompt_tokens), answer.token_ids.size(),
      done.finish_reason.c_str(), static_cast<long long>(done.seed), done.ttft_s,
      done.decode_tokens_per_s);
  out += StrCat("layout tp ", done.layout.tp, " x pp ", done.layout.pp, " x sp ", done.layout.sp,
                "\n");
  for (const RankReport& rank : done.ranks) {
    out += Format(
        "rank %lld %s: %lld steps, compute %.3f s, communication %.3f s hidden, "
        "%.3f s exposed\n",
        static_cast<long long>(rank.rank), rank.host.c_str(), static_cast<long long>(rank.steps),
        rank.compute_s, rank.comm_hidden_s, rank.comm_exposed_s);
  }
  return out;
}

Json CompletionToJson(const Completion& answer) {
  const DoneEvent& done = answer.done;
  Json out = Json::MakeObject();
  out.Set("prompt_ids", IdsToJson(done.prompt_ids));
  out.Set("token_ids", IdsToJson(answer.token_ids));
  out.Set("text", answer.text);
  out.Set("finish_reason", done.finish_reason);
  Json rows = Json::MakeArray();
  for (const LogprobRow& row : answer.logprobs) rows.Append(LogprobRowToJson(row));
  out.Set("logprobs", std::move(rows));
  if (!done.prompt_logprobs.empty()) {
    Json prompt = Json::MakeArray();
    for (const auto& row : done.prompt_logprobs) {
      prompt.Append(row ? LogprobRowToJson(*row) : Json());
    }
    out.Set("prompt_logprobs", std::move(prompt));
  }
  Json timings = Json::MakeObject();
  timings.Set("ttft_s", done.ttft_s);
  timings.Set("decode_tokens_per_s", done.decode_tokens_per_s);
  out.Set("timings", std::move(timings));
  out.Set("layout", LayoutToJson(done.layout));
  return out;
}

void PrintText(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void PrintNote(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace echelon
