#pragma once
// AddedTokens: finds the tokens that stand in a text as themselves ("<|im_start|>"), the leftmost
// first and of those the longest, as Hugging Face does. Special ones only where every byte of the
// match is trusted. Immutable after the last Add; safe to use from several threads at once.

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/model/marked_text.h"
#include "common/model/split_regex.h"
#include "common/model/tokenizer_data.h"

namespace echelon {

class AddedTokens {
 public:
  // `text`: what to look for (not empty, at most kAddedTokenBytesMax); flags and id from `token`.
  void Add(std::string_view text, const AddedToken& token);
  bool empty() const { return tokens_.empty(); }

  // The text cut into stretches of plain text (id -1) and tokens.
  struct Piece {
    TextRange range;
    int32_t id = -1;
  };
  std::vector<Piece> Cut(const MarkedText& text) const;

 private:
  struct Node {
    std::vector<std::pair<uint8_t, int32_t>> next;  // by byte, ascending
    int32_t token = -1;                             // index into tokens_, where one ends here
  };
  struct Entry {
    int32_t id;
    bool special, single_word, lstrip, rstrip;
  };
  int32_t Child(int32_t node, uint8_t byte) const;  // -1: none
  // Index and length of the longest token that begins at `position`, or -1.
  std::pair<int32_t, size_t> LongestAt(const MarkedText& text, size_t position) const;

  bool WordAround(std::string_view text, size_t begin, size_t end) const;

  std::unique_ptr<SplitRegex> word_;  // where a token wants to be a single word
  std::vector<Node> nodes_{1};
  std::vector<Entry> tokens_;
};

}  // namespace echelon
