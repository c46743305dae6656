#pragma once
// PreTokenizer: cuts text into the pieces within which tokens are merged. Immutable; safe to use
// from several threads at once.

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/model/split_regex.h"
#include "common/model/tokenizer_data.h"
#include "common/result.h"

namespace echelon {

// Pieces of a text, in order. Views into the text, or into `changed` where a step rewrote a piece.
struct Pieces {
  std::vector<std::string_view> views;
  std::deque<std::string> changed;
};

class PreTokenizer {
 public:
  // `source` stands in the errors.
  static Result<PreTokenizer> Create(const std::vector<PreTokenizerStep>& steps,
                                     const std::string& source);
  // Appends the pieces of `text` (valid UTF-8). at_start: it begins the whole input.
  void Split(std::string_view text, bool at_start, Pieces& out) const;

 private:
  struct Step {
    PreTokenizerStep step;
    std::unique_ptr<SplitRegex> regex;  // kRegex, kDigits
  };
  std::vector<Step> steps_;
};

// The pieces that `text` falls into when `matches` are cut out of it the way `behavior` says.
void CutPieces(std::string_view text, const std::vector<TextRange>& matches, SplitBehavior behavior,
               bool invert, std::vector<std::string_view>& out);

}  // namespace echelon
