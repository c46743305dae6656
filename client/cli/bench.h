#pragma once
// Speed of a service, measured from outside by the clock of the client: what a stream and what many
// streams get. Prompts are fresh random ids, so that nothing computed before can help.

#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "client/cpp/client.h"
#include "common/config.h"
#include "common/model_config.h"
#include "common/result.h"

namespace echelon {

struct BenchLoad {
  int64_t prompt = 0;   // tokens of each prompt
  int64_t gen = 0;      // tokens each request generates, at least 2
  int64_t streams = 0;  // at once
  int token_ids = 0;    // prompts are drawn from the ids below this
};

// Tokens a second.
struct BenchRates {
  double prefill = 0.0;  // one stream: prompt / (submitted to first token)
  double decode = 0.0;   // one stream: tokens after the first / (first to last token)
  double served = 0.0;   // `streams` at once: generated / (first submitted to last token)
};

class Bench {
 public:
  // `on_wait` is called at least every 100 ms; the error it returns ends the measurement. Both
  // outlive the bench.
  Bench(Client& client, const BenchLoad& load, uint64_t seed, std::function<Status()> on_wait)
      : client_(client), load_(load), random_(seed), on_wait_(std::move(on_wait)) {}

  // A short request that touches every kind of step.
  Status WarmUp();
  // One stream, then `streams` at once (the same one where that is 1).
  Result<BenchRates> Run();

 private:
  struct Times {  // seconds of the steady clock
    double submitted = 0.0, first = 0.0, last = 0.0;
    int64_t first_tokens = 0;  // that came with the first event
    int64_t tokens = 0;        // in all, of every stream
  };
  Result<Times> Serve(int64_t streams, int64_t prompt, int64_t gen);

  Client& client_;
  const BenchLoad load_;
  std::mt19937_64 random_;
  std::function<Status()> on_wait_;
};

// How many token ids a service of this configuration takes: it refuses those beyond the
// tokenizer's, and a checkpoint whose embedding is padded has more rows than its tokenizer has
// tokens.
Result<int> UsableTokenIds(const ServiceConfig& config, const ModelConfig& model);

// Median and range of what was measured.
struct Spread {
  double median = 0.0, min = 0.0, max = 0.0;
};
Spread SpreadOf(std::vector<double> values);  // at least one

// What one decoded token reads over all ranks, in bytes: the packed weights, and keys and values of
// `context` positions (of a layer with a window: at most the window's).
double BytesPerToken(const ModelConfig& model, const ServiceStatus& status, double context);

// Bytes a second that all ranks together read; 0 where a rank did not measure it.
double ReadBytesPerSecond(const ServiceStatus& status);

}  // namespace echelon
