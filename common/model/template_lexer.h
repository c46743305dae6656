#pragma once
// Cuts the source of a chat template (Jinja) into tokens. White space is treated as transformers
// sets it: trim_blocks and lstrip_blocks are on, and "-" inside a tag strips beside it.

#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace echelon::chat {

struct Token {
  enum class Kind {
    kText,
    kOpenOutput,
    kClose,
    kOpenBlock,
    kName,
    kString,
    kInt,
    kFloat,
    kOperator,
    kEnd
  };
  Kind kind = Kind::kEnd;
  std::string text;  // a string's text without quotes, escapes undone
  int line = 1;

  bool Is(Kind k, std::string_view t) const { return kind == k && text == t; }
  bool IsOperator(std::string_view t) const { return Is(Kind::kOperator, t); }
  bool IsName(std::string_view t) const { return Is(Kind::kName, t); }
};

Error TemplateError(int line, const std::string& what);
Result<std::vector<Token>> Lex(std::string_view source);

}  // namespace echelon::chat
