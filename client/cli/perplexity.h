#pragma once
// Perplexity of a text under the model, by teacher forcing: the text's ids are cut into windows, no
// token is put before a window, and every token but a window's first is predicted.

#include <cstdint>
#include <span>
#include <vector>

#include "client/cpp/client.h"
#include "common/result.h"

namespace echelon {

struct PerplexityResult {
  double perplexity = 0.0;  // exp(mean negative log-probability)
  int64_t predicted = 0;    // tokens
};

// `in_flight_max` windows are with the service at once. `on_progress` sees (windows done, windows);
// returning an error gives up with it. What the service refuses for now (a full queue) is asked
// again.
Result<PerplexityResult> MeasurePerplexity(
    Client& client, std::span<const int32_t> ids, int64_t window, int in_flight_max,
    const std::function<Status(int64_t, int64_t)>& on_progress);

}  // namespace echelon
