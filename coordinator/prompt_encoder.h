#pragma once
// PromptEncoder: prompts to token ids beside the coordinator's Tick, in one thread with a bounded
// queue, since a long prompt takes milliseconds. Chat messages are rendered with the model's
// template.
//
// Thread: Submit and Take belong to the coordinator's; the work runs in the encoder's own.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/json.h"
#include "common/model/chat_template.h"
#include "common/model/tokenizer.h"
#include "common/result.h"

namespace echelon {

struct EncodeJob {
  uint64_t ticket = 0;
  std::optional<std::string> text;  // a raw prompt
  Json messages;                    // or a conversation
};
struct EncodedPrompt {
  uint64_t ticket = 0;
  Result<std::vector<int32_t>> ids = std::vector<int32_t>();
};

class PromptEncoder {
 public:
  virtual ~PromptEncoder() = default;
  virtual bool Submit(EncodeJob job) = 0;  // false: the queue is full
  // Nobody waits for `ticket` any more: its job goes, unless it is being done or was done.
  virtual void Drop(uint64_t ticket) = 0;
  virtual std::vector<EncodedPrompt> Take() = 0;
  virtual int wake_fd() const = 0;  // readable while Take has something; -1 = never waits
};

// What the encoders do. `chat_template` is null where the model has none.
Result<std::vector<int32_t>> EncodePrompt(const Tokenizer& tokenizer,
                                          const ChatTemplate* chat_template, const EncodeJob& job);

// In a thread; the tokenizer outlives it.
std::unique_ptr<PromptEncoder> MakeThreadedEncoder(const Tokenizer& tokenizer,
                                                   std::unique_ptr<ChatTemplate> chat_template,
                                                   size_t jobs_max);
// At once, in Submit: for tests and simulations.
std::unique_ptr<PromptEncoder> MakeInlineEncoder(const Tokenizer& tokenizer,
                                                 std::unique_ptr<ChatTemplate> chat_template);

}  // namespace echelon
