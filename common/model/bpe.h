#pragma once
// Byte-pair merging, in the order of Hugging Face's tokenizers: always the pair of the lowest rank,
// the leftmost where ranks are equal. O(n log n) for n symbols, whatever the text.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace echelon {

using VocabularyMap = std::unordered_map<std::string_view, int32_t>;

// Which pairs of tokens merge, into what, and how early (lower rank first). Immutable.
class MergeTable {
 public:
  struct Merge {
    uint64_t rank = 0;
    int32_t id = 0;
  };
  virtual ~MergeTable() = default;
  // `scratch` is the caller's, so that a look-up allocates nothing.
  virtual std::optional<Merge> Find(int32_t left, int32_t right, std::string& scratch) const = 0;
};

// A list of merges: the rank is the place in the list.
class PairMerges final : public MergeTable {
 public:
  void Reserve(size_t count) { merges_.reserve(count); }
  // The first of equal pairs keeps its rank.
  void Add(int32_t left, int32_t right, Merge merge) { merges_.emplace(Key(left, right), merge); }
  std::optional<Merge> Find(int32_t left, int32_t right, std::string& scratch) const override;

 private:
  static uint64_t Key(int32_t left, int32_t right) {
    return uint64_t(uint32_t(left)) << 32 | uint32_t(right);
  }
  std::unordered_map<uint64_t, Merge> merges_;
};

// No list: two tokens merge where their joined text is a token. The rank is what sorting all such
// pairs gives in transformers' generate_merges: the order of the resulting token first, then the
// longer left part, then the longer right part, then the lower id of the result.
class JoinMerges final : public MergeTable {
 public:
  // Both must outlive this. order[id]: lower merges earlier; -1: never made by merging.
  JoinMerges(const std::vector<std::string>& tokens, const VocabularyMap& vocabulary,
             std::vector<int32_t> order);
  std::optional<Merge> Find(int32_t left, int32_t right, std::string& scratch) const override;

 private:
  const std::vector<std::string>& tokens_;
  const VocabularyMap& vocabulary_;
  std::vector<int32_t> order_;
  std::vector<uint16_t> chars_;  // per token
  size_t bytes_max_ = 0;         // of any token: a longer join needs no look-up
};

// Merges `ids` until no pair is left.
void MergeAll(const MergeTable& table, std::vector<int32_t>& ids);

}  // namespace echelon
