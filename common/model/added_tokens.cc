#include "common/model/added_tokens.h"

#include <algorithm>

#include "common/check.h"
#include "common/model/utf8.h"

namespace echelon {

namespace {

size_t CharBegin(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
  return begin;
}

size_t SkipSpacesBack(std::string_view text, size_t begin, size_t floor) {
  while (begin > floor) {
    const size_t previous = CharBegin(text, begin);
    if (previous < floor || !IsUnicodeSpace(DecodeUtf8(text, previous).code)) break;
    begin = previous;
  }
  return begin;
}

size_t SkipSpaces(std::string_view text, size_t end) {
  while (end < text.size()) {
    const Utf8Char c = DecodeUtf8(text, end);
    if (!IsUnicodeSpace(c.code)) break;
    end += c.bytes;
  }
  return end;
}

}  // namespace

void AddedTokens::Add(std::string_view text, const AddedToken& token) {
  CHECK(!text.empty());
  if (token.single_word && word_ == nullptr) word_ = std::move(SplitRegex::Find("word")).value();
  int32_t node = 0;
  for (const char c : text) {
    const uint8_t byte = static_cast<uint8_t>(c);
    int32_t child = Child(node, byte);
    if (child < 0) {
      child = static_cast<int32_t>(nodes_.size());
      auto& next = nodes_[node].next;
      next.insert(std::lower_bound(next.begin(), next.end(), std::pair<uint8_t, int32_t>(byte, -1)),
                  {byte, child});
      nodes_.emplace_back();
    }
    node = child;
  }
  nodes_[node].token = static_cast<int32_t>(tokens_.size());
  tokens_.push_back({token.id, token.special, token.single_word, token.lstrip, token.rstrip});
}

bool AddedTokens::WordAround(std::string_view text, size_t begin, size_t end) const {
  const auto is_word = [&](size_t from, size_t to) {
    return !word_->Matches(text.substr(from, to - from)).empty();
  };
  if (begin > 0 && is_word(CharBegin(text, begin), begin)) return true;
  return end < text.size() && is_word(end, end + DecodeUtf8(text, end).bytes);
}

int32_t AddedTokens::Child(int32_t node, uint8_t byte) const {
  const auto& next = nodes_[node].next;
  const auto it = std::lower_bound(next.begin(), next.end(), std::pair<uint8_t, int32_t>(byte, -1));
  return it != next.end() && it->first == byte ? it->second : -1;
}

std::pair<int32_t, size_t> AddedTokens::LongestAt(const MarkedText& text, size_t position) const {
  std::pair<int32_t, size_t> best{-1, 0};
  int32_t node = 0;
  for (size_t end = position; end < text.text.size();) {
    node = Child(node, static_cast<uint8_t>(text.text[end]));
    if (node < 0) break;
    ++end;
    const int32_t token = nodes_[node].token;
    if (token >= 0 && (!tokens_[token].special || text.Trusted(position, end))) {
      best = {token, end - position};
    }
  }
  return best;
}

std::vector<AddedTokens::Piece> AddedTokens::Cut(const MarkedText& text) const {
  std::vector<Piece> pieces;
  const size_t size = text.text.size();
  size_t done = 0;  // everything before it is in `pieces`
  for (size_t position = 0; position < size;) {
    const auto [index, bytes] = LongestAt(text, position);
    if (index < 0) {
      ++position;
      continue;
    }
    const Entry& token = tokens_[index];
    size_t begin = position;
    size_t end = position + bytes;
    position = end;
    if (begin < done || (token.single_word && WordAround(text.text, begin, end))) continue;
    if (token.lstrip) begin = SkipSpacesBack(text.text, begin, done);
    if (token.rstrip) end = SkipSpaces(text.text, end);
    if (done < begin) pieces.push_back({{done, begin}, -1});
    pieces.push_back({{begin, end}, token.id});
    done = end;
  }
  if (done < size) pieces.push_back({{done, size}, -1});
  return pieces;
}

}  // namespace echelon
