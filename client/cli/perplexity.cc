#include "client/cli/perplexity.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <thread>

#include "client/cli/errors.h"
#include "common/strings.h"

namespace echelon {

namespace {

constexpr int64_t kWaitMs = 100;
constexpr int64_t kRetryDefaultMs = 200;  // where the service gives no hint
constexpr int kRetriesMax = 100;          // of one window

// Sum of -log p of every token of the window but the first.
Result<double> NegativeLogLikelihood(std::span<const int32_t> window, const DoneEvent& done) {
  if (done.prompt_logprobs.size() != window.size()) {
    return Corrupt(StrCat("the service sent ", done.prompt_logprobs.size(),
                          " prompt log-probabilities for ", window.size(), " tokens"));
  }
  double sum = 0.0;
  for (size_t i = 1; i < window.size(); ++i) {
    const auto& row = done.prompt_logprobs[i];
    const Logprob* found = nullptr;
    if (row) {
      for (const Logprob& entry : *row) {
        if (entry.id == window[i]) found = &entry;
      }
    }
    if (found == nullptr) {
      return Corrupt(StrCat("the service sent no log-probability for prompt position ", i));
    }
    sum -= found->logprob;
  }
  return sum;
}

}  // namespace

Result<PerplexityResult> MeasurePerplexity(
    Client& client, std::span<const int32_t> ids, int64_t window, int in_flight_max,
    const std::function<Status(int64_t, int64_t)>& on_progress) {
  // A last window of one token predicts nothing.
  std::vector<std::span<const int32_t>> windows;
  for (size_t begin = 0; begin + 1 < ids.size(); begin += static_cast<size_t>(window)) {
    windows.push_back(ids.subspan(begin, std::min<size_t>(window, ids.size() - begin)));
  }
  if (window < 2 || windows.empty()) {
    return InvalidArgument(
        StrCat("a text of ", ids.size(), " tokens in windows of ", window, " predicts nothing"));
  }

  const auto submit = [&](size_t index) {
    GenerationRequest request;
    request.prompt = std::vector<int32_t>(windows[index].begin(), windows[index].end());
    request.max_tokens = 0;
    request.prompt_logprobs = 0;
    request.temperature = 0.0;
    return client.Submit(request.ToJson());
  };
  std::map<std::string, size_t> in_flight;
  std::vector<double> sums(windows.size());  // added in order at the end: the same figure each time
  std::vector<int> retries(windows.size());
  size_t next = 0, done = 0;
  while (done < windows.size()) {
    while (next < windows.size() && in_flight.size() < static_cast<size_t>(in_flight_max)) {
      ASSIGN_OR_RETURN(const std::string id, submit(next));
      in_flight[id] = next++;
    }
    ASSIGN_OR_RETURN(const std::optional<StreamEvent> event, client.Next(kWaitMs));
    RETURN_IF_ERROR(on_progress(static_cast<int64_t>(done), static_cast<int64_t>(windows.size())));
    if (!event || !event->IsLast()) continue;
    const auto found = in_flight.find(event->id);
    if (found == in_flight.end()) return Describe(std::get<ServiceError>(event->body));
    const size_t index = found->second;
    in_flight.erase(found);
    if (const auto* error = std::get_if<ServiceError>(&event->body)) {
      if (!error->retryable || ++retries[index] > kRetriesMax) return Describe(*error);
      const int64_t wait_ms = error->retry_after_ms >= 0 ? error->retry_after_ms : kRetryDefaultMs;
      std::this_thread::sleep_for(std::chrono::milliseconds(std::min<int64_t>(wait_ms, 5'000)));
      ASSIGN_OR_RETURN(const std::string id, submit(index));
      in_flight[id] = index;
      continue;
    }
    ASSIGN_OR_RETURN(sums[index],
                     NegativeLogLikelihood(windows[index], std::get<DoneEvent>(event->body)));
    ++done;
  }

  double sum = 0.0;
  PerplexityResult result;
  for (size_t i = 0; i < windows.size(); ++i) {
    sum += sums[i];
    result.predicted += static_cast<int64_t>(windows[i].size()) - 1;
  }
  result.perplexity = std::exp(sum / static_cast<double>(result.predicted));
  return result;
}

}  // namespace echelon
