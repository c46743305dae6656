// echelon perplexity: how well the model predicts a file.

#include <unistd.h>

#include <cstdio>
#include <utility>

#include "client/cli/answer.h"
#include "client/cli/commands.h"
#include "client/cli/errors.h"
#include "client/cli/input.h"
#include "client/cli/perplexity.h"
#include "client/cli/service.h"
#include "common/model/tokenizer.h"
#include "common/strings.h"

namespace echelon {

namespace {

constexpr size_t kFileBytesMax = 256 << 20;
// Enough to keep every pipeline stage busy; the scheduler queues the rest.
constexpr int kInFlightMax = 8;

}  // namespace

Status RunPerplexity(const PerplexityOptions& options, Interrupts& interrupts) {
  ASSIGN_OR_RETURN(const std::string text, ReadUtf8File(options.file, kFileBytesMax));
  ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(options.service.model));
  const std::vector<int32_t> ids = tokenizer->Encode(FirstCharacters(text, options.chars));
  ASSIGN_OR_RETURN(const auto service, Service::Open(options.service, interrupts));

  const bool is_terminal = isatty(STDERR_FILENO) == 1;
  int64_t shown = -1;
  const auto on_progress = [&](int64_t done, int64_t windows) -> Status {
    if (done != std::exchange(shown, done)) {
      PrintNote(StrCat(is_terminal ? "\r" : "", done, " of ", windows, " windows",
                       is_terminal ? "" : "\n"));
    }
    if (interrupts.Take()) return Error{ErrorCode::kCancelled, "interrupted"};
    return service->Check();
  };
  const auto result =
      MeasurePerplexity(service->client(), ids, options.window, kInFlightMax, on_progress);
  if (is_terminal) PrintNote("\n");
  const Status closed = service->Close();
  if (!result.ok()) return result.error();
  if (options.json) {
    Json out = Json::MakeObject();
    out.Set("perplexity", result->perplexity);
    out.Set("predicted", result->predicted);
    PrintText(out.Dump() + "\n");
  } else {
    char line[96];
    std::snprintf(line, sizeof line, "perplexity %.4f over %lld predicted tokens\n",
                  result->perplexity, static_cast<long long>(result->predicted));
    PrintText(line);
  }
  return closed;
}

}  // namespace echelon
