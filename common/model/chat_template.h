#pragma once
// ChatTemplate: renders a conversation with the model's own template, a small side-effect-free
// subset of Jinja with a step limit and an output limit. What it cannot run is a clear error that
// names the construct. Text that came from a message is marked untrusted in the output.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/json.h"
#include "common/model/tokenizer.h"
#include "common/result.h"

namespace echelon {

struct ChatTemplateLimits {
  int steps_max = 1'000'000;
  size_t output_bytes_max = size_t{16} << 20;
};

class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;
  // messages: an array of {"role": ..., "content": ...} objects.
  virtual Result<std::vector<TextSpan>> Render(const Json& messages, bool add_generation_prompt,
                                               std::string_view bos_text,
                                               std::string_view eos_text) const = 0;
};

Result<std::unique_ptr<ChatTemplate>> ParseChatTemplate(std::string_view source,
                                                        ChatTemplateLimits limits = {});

}  // namespace echelon
