// echelon run MODEL "prompt": one answer to one message, for people.

#include "client/cli/answer.h"
#include "client/cli/commands.h"
#include "client/cli/conversation.h"
#include "client/cli/errors.h"
#include "client/cli/service.h"
#include "common/strings.h"

namespace echelon {

Status RunRun(const RunOptions& options, Interrupts& interrupts) {
  if (!IsValidUtf8(options.prompt)) return UsageError("the prompt is not valid UTF-8");
  Conversation conversation(options.system);
  conversation.Add("user", options.prompt);
  GenerationRequest request;
  request.prompt = conversation.messages();
  ApplySampling(options.sampling, request);
  ASSIGN_OR_RETURN(const auto service, Service::Open(options.service, interrupts));
  const auto answer = Ask(*service, request, interrupts, PrintText);
  PrintText("\n");
  const Status closed = service->Close();
  if (!answer.ok()) return answer.error();
  PrintNote(StrCat("\n", DescribeTimings(*answer)));
  if (answer->done.finish_reason == "cancelled") {
    return Error{ErrorCode::kCancelled, "cancelled before the end of the answer"};
  }
  return closed;
}

}  // namespace echelon
