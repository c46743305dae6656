#pragma once
// SplitRegex: one of the regexes that published tokenizers cut text with. Only those in the table
// of split_regex.cc are run, so that a hostile tokenizer.json cannot bring one that backtracks for
// hours: each of these looks at a character a bounded number of times. Classes mean what they mean
// in Hugging Face's engine (Oniguruma, Unicode 16), whatever the library's own Unicode version.
// Immutable; safe to use from several threads at once.

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/model/marked_text.h"
#include "common/result.h"

namespace echelon {

class SplitRegex {
 public:
  // By the regex itself, exactly as a tokenizer.json spells it, or by a name: "gpt2", "llama3",
  // "qwen2", "qwen3.5", "tekken", "gpt-4o", "digits", "word". kUnsupported where the table has
  // neither.
  static Result<std::unique_ptr<SplitRegex>> Find(std::string_view pattern_or_name);
  ~SplitRegex();

  // The matches from left to right; `text` is valid UTF-8.
  std::vector<TextRange> Matches(std::string_view text) const;

 private:
  struct Code;
  explicit SplitRegex(std::unique_ptr<Code> code);
  std::unique_ptr<Code> code_;
};

}  // namespace echelon
