#include "common/model/chat_template.h"

#include <algorithm>

#include "common/model/template_eval.h"
#include "common/strings.h"

namespace echelon {

namespace {

using chat::Value;

// The largest published template we know has 13 KB; the limit bounds the parsed tree.
constexpr size_t kSourceBytesMax = size_t{1} << 20;

// Templates build special tokens out of roles ("<|" + role + "|>"): these names are the protocol's
// words, not a stranger's text.
constexpr std::string_view kRoles[] = {"system", "user",     "assistant", "tool",
                                       "model",  "function", "developer", "ipython"};

Value Conversation(const Json& messages) {
  Value::List list;
  for (const Json& message : messages.as_array()) {
    Value::Dict dict;
    for (const auto& [key, member] : message.as_object()) {
      const bool known_role =
          key == "role" && member.is_string() &&
          std::find(std::begin(kRoles), std::end(kRoles), member.as_string()) != std::end(kRoles);
      dict.emplace_back(MarkedText::Untrusted(key),
                        known_role ? Value(member.as_string()) : chat::UntrustedValue(member));
    }
    list.emplace_back(std::move(dict));
  }
  return list;
}

std::vector<TextSpan> Spans(const MarkedText& text) {
  std::vector<TextSpan> spans;
  for (size_t begin = 0; begin < text.text.size();) {
    const bool trusted = text.Trusted(begin, begin + 1);
    size_t end = text.text.size();
    if (!text.untrusted.empty()) {
      end = std::min(end, text.untrusted.find(trusted ? '\1' : '\0', begin));
    }
    spans.push_back({text.text.substr(begin, end - begin), trusted});
    begin = end;
  }
  return spans;
}

class JinjaTemplate final : public ChatTemplate {
 public:
  JinjaTemplate(chat::Block block, ChatTemplateLimits limits)
      : block_(std::move(block)), limits_(limits) {}

  Result<std::vector<TextSpan>> Render(const Json& messages, bool add_generation_prompt,
                                       std::string_view bos_text,
                                       std::string_view eos_text) const override {
    if (!messages.is_array()) return InvalidArgument("messages is not an array", "messages");
    for (size_t i = 0; i < messages.as_array().size(); ++i) {
      if (messages.as_array()[i].is_object()) continue;
      return InvalidArgument(StrCat("messages[", i, "] is not an object"), "messages");
    }
    const auto text = [](std::string_view name) { return MarkedText{std::string(name), ""}; };
    chat::Evaluator evaluator(limits_, {{text("messages"), Conversation(messages)},
                                        {text("add_generation_prompt"), add_generation_prompt},
                                        {text("bos_token"), Value(std::string(bos_text))},
                                        {text("eos_token"), Value(std::string(eos_text))},
                                        {text("tools"), Value::None()},
                                        {text("documents"), Value::None()}});
    ASSIGN_OR_RETURN(const MarkedText out, evaluator.Run(block_));
    return Spans(out);
  }

 private:
  const chat::Block block_;
  const ChatTemplateLimits limits_;
};

}  // namespace

Result<std::unique_ptr<ChatTemplate>> ParseChatTemplate(std::string_view source,
                                                        ChatTemplateLimits limits) {
  if (source.size() > kSourceBytesMax) {
    return Unsupported(StrCat("chat template of ", source.size(), " bytes, more than the limit of ",
                              kSourceBytesMax));
  }
  if (!IsValidUtf8(source)) return Corrupt("chat template is not UTF-8");
  ASSIGN_OR_RETURN(chat::Block block, chat::ParseTemplate(source));
  return std::unique_ptr<ChatTemplate>(std::make_unique<JinjaTemplate>(std::move(block), limits));
}

}  // namespace echelon
