#pragma once
// One answer from the service: asked for, streamed to whoever wants its text, and reported on.

#include <functional>
#include <string>
#include <string_view>

#include "client/cli/interrupts.h"
#include "client/cli/options.h"
#include "client/cli/service.h"
#include "client/cpp/client.h"
#include "common/result.h"

namespace echelon {

// 53 random bits: exact in every JSON reader, a double included.
int64_t DrawSeed();

// Fills the fields of SamplingOptions into the request; draws the seed where none is given.
void ApplySampling(const SamplingOptions& options, GenerationRequest& request);

// Submits and reads to the end; `on_text` gets each piece of text. An interrupt cancels the
// request, and the answer is what came until then (finish_reason cancelled).
Result<Completion> Ask(Service& service, const GenerationRequest& request, Interrupts& interrupts,
                       const std::function<void(std::string_view)>& on_text);

// "time to first token 0.21 s, 45.6 tokens/s, ..." and a line per rank.
std::string DescribeTimings(const Completion& answer);

// The object of `echelon generate --json`.
Json CompletionToJson(const Completion& answer);

// Text to stdout at once, for streaming.
void PrintText(std::string_view text);
// Lines to stderr.
void PrintNote(const std::string& text);

}  // namespace echelon
