// echelon chat: a conversation. Ctrl-C cancels an answer, Ctrl-D (or Ctrl-C at the prompt) ends it.

#include <unistd.h>

#include "client/cli/answer.h"
#include "client/cli/commands.h"
#include "client/cli/conversation.h"
#include "client/cli/input.h"
#include "client/cli/service.h"
#include "common/strings.h"

namespace echelon {

namespace {

Status Converse(Service& service, const ChatOptions& options, Interrupts& interrupts) {
  const bool is_terminal = isatty(STDIN_FILENO) == 1;
  if (is_terminal) PrintNote("Ctrl-C cancels an answer, Ctrl-D ends the conversation.\n");
  Conversation conversation(options.system);
  LineReader lines;
  std::string line;
  while (true) {
    if (is_terminal) PrintNote("> ");
    if (lines.Read(interrupts, line) != LineReader::End::kLine) break;
    if (line.empty()) continue;
    if (!IsValidUtf8(line)) {
      PrintNote("that line is not valid UTF-8\n");
      continue;
    }
    conversation.Add("user", line);
    GenerationRequest request;
    request.prompt = conversation.messages();
    ApplySampling(options.sampling, request);
    const auto answer = Ask(service, request, interrupts, PrintText);
    PrintText("\n");
    if (!answer.ok()) {
      // What the service refuses (a conversation too long, say) does not end the conversation, but
      // without a service there is none.
      if (!is_terminal || answer.error().code == ErrorCode::kUnavailable) return answer.error();
      PrintNote(StrCat("error: ", answer.error().message, "\n"));
      conversation.RemoveLast();
      continue;
    }
    conversation.Add("assistant", answer->text);
  }
  if (is_terminal) PrintNote("\n");
  return Status();
}

}  // namespace

Status RunChat(const ChatOptions& options, Interrupts& interrupts) {
  ASSIGN_OR_RETURN(const auto service, Service::Open(options.service, interrupts));
  RETURN_IF_ERROR(Converse(*service, options, interrupts));
  return service->Close();
}

}  // namespace echelon
