// echelon generate: one answer from a local group or a running service.

#include "client/cli/answer.h"
#include "client/cli/commands.h"
#include "client/cli/errors.h"
#include "client/cli/input.h"
#include "client/cli/service.h"
#include "common/strings.h"

namespace echelon {

namespace {

Result<GenerationRequest> BuildRequest(const GenerateOptions& options) {
  GenerationRequest request;
  if (options.prompt) {
    if (!IsValidUtf8(*options.prompt)) return UsageError("--prompt is not valid UTF-8");
    request.prompt = *options.prompt;
  } else if (!options.messages_file.empty()) {
    ASSIGN_OR_RETURN(request.prompt, ReadMessages(options.messages_file));
  } else {
    request.prompt = options.prompt_ids;
  }
  ApplySampling(options.sampling, request);
  request.logprobs = options.logprobs;
  request.prompt_logprobs = options.prompt_logprobs;
  request.deadline_ms = options.deadline_ms;
  request.speculation = options.speculation;
  request.ignore_eos = options.ignore_eos;
  return request;
}

}  // namespace

Status RunGenerate(const GenerateOptions& options, Interrupts& interrupts) {
  ASSIGN_OR_RETURN(const GenerationRequest request, BuildRequest(options));
  ASSIGN_OR_RETURN(const auto service, Service::Open(options.service, interrupts));
  PrintNote(StrCat("seed ", *request.seed, "\n"));
  const bool stream = !options.json;
  const auto answer = Ask(*service, request, interrupts, [stream](std::string_view text) {
    if (stream) PrintText(text);
  });
  if (stream) PrintText("\n");
  // The group ends before anything is reported, so that a report means: nothing was left behind.
  const Status closed = service->Close();
  if (!answer.ok()) return answer.error();
  PrintNote(DescribeTimings(*answer));
  if (options.json) PrintText(CompletionToJson(*answer).Dump() + "\n");
  if (answer->done.finish_reason == "cancelled") {
    return Error{ErrorCode::kCancelled, "cancelled before the end of the answer"};
  }
  return closed;
}

}  // namespace echelon
