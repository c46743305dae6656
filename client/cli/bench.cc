#include "client/cli/bench.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <utility>

#include "client/cli/errors.h"
#include "common/run_setup.h"
#include "common/strings.h"

namespace echelon {

namespace {

constexpr int64_t kWaitMs = 100;
// A full prefill step and some decode steps: scratch memory has its size, threads are awake.
constexpr int64_t kWarmUpPrompt = 512, kWarmUpTokens = 8;

double Now() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

}  // namespace

Result<Bench::Times> Bench::Serve(int64_t streams, int64_t prompt, int64_t gen) {
  std::vector<Json> bodies;
  for (int64_t i = 0; i < streams; ++i) {
    std::vector<int32_t> ids(static_cast<size_t>(prompt));
    for (int32_t& id : ids) id = static_cast<int32_t>(random_() % load_.token_ids);
    GenerationRequest request;
    request.prompt = std::move(ids);
    request.max_tokens = gen;
    request.temperature = 0.0;
    request.ignore_eos = true;
    bodies.push_back(request.ToJson());
  }
  Times times;
  times.submitted = Now();
  std::set<std::string> open;
  for (const Json& body : bodies) {
    ASSIGN_OR_RETURN(std::string id, client_.Submit(body));
    open.insert(std::move(id));
  }
  while (!open.empty()) {
    ASSIGN_OR_RETURN(const std::optional<StreamEvent> event, client_.Next(kWaitMs));
    RETURN_IF_ERROR(on_wait_());
    if (!event) continue;
    if (const auto* error = std::get_if<ServiceError>(&event->body)) return Describe(*error);
    if (const auto* tokens = std::get_if<TokensEvent>(&event->body)) {
      const auto count = static_cast<int64_t>(tokens->token_ids.size());
      times.last = Now();
      if (times.tokens == 0) {
        times.first = times.last;
        times.first_tokens = count;
      }
      times.tokens += count;
    }
    if (event->IsLast()) open.erase(event->id);
  }
  if (times.tokens != streams * gen) {
    return InternalError(StrCat("asked for ", streams * gen, " tokens, got ", times.tokens,
                                ": does the context (model.context_max_tokens) hold the prompt and "
                                "the answer?"));
  }
  return times;
}

Status Bench::WarmUp() {
  RETURN_IF_ERROR(
      Serve(1, std::min(load_.prompt, kWarmUpPrompt), std::min(load_.gen, kWarmUpTokens)));
  return {};
}

Result<BenchRates> Bench::Run() {
  ASSIGN_OR_RETURN(const Times one, Serve(1, load_.prompt, load_.gen));
  Times many = one;
  if (load_.streams > 1) {
    ASSIGN_OR_RETURN(many, Serve(load_.streams, load_.prompt, load_.gen));
  }
  BenchRates rates;
  rates.prefill = static_cast<double>(load_.prompt) / (one.first - one.submitted);
  rates.decode = static_cast<double>(one.tokens - one.first_tokens) / (one.last - one.first);
  rates.served = static_cast<double>(many.tokens) / (many.last - many.submitted);
  return rates;
}

Result<int> UsableTokenIds(const ServiceConfig& config, const ModelConfig& model) {
  ASSIGN_OR_RETURN(const RunTokenizer loaded, LoadRunTokenizer(config.model, model));
  return std::min<int>(loaded.tokenizer->vocab_size(), model.vocab_size);
}

Spread SpreadOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
  return {median, values.front(), values.back()};
}

double BytesPerToken(const ModelConfig& model, const ServiceStatus& status, double context) {
  double weights = 0.0, position = 0.0;
  for (const RankProgress& rank : status.ranks) {
    weights += static_cast<double>(rank.token_bytes);
    position += static_cast<double>(rank.kv_position_bytes);
  }
  double positions = 0.0;  // read, over all layers
  for (const LayerConfig& layer : model.layers) {
    positions += layer.window > 0 ? std::min<double>(context, layer.window) : context;
  }
  return weights + position * positions / model.n_layers();
}

double ReadBytesPerSecond(const ServiceStatus& status) {
  double sum = 0.0;
  for (const RankProgress& rank : status.ranks) {
    if (rank.read_bytes_per_s == 0) return 0.0;
    sum += static_cast<double>(rank.read_bytes_per_s);
  }
  return sum;
}

}  // namespace echelon
