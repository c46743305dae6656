#include "common/model/bpe.h"

#include <algorithm>
#include <functional>

#include "common/check.h"
#include "common/model/tokenizer_data.h"

namespace echelon {

namespace {

// A pair that may merge: the symbol at `position` with the one after it, into `id`.
struct Candidate {
  uint64_t rank = 0;
  int32_t position = 0;
  int32_t id = 0;
  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

struct Symbol {
  int32_t id = 0;
  int32_t previous = -1;
  int32_t next = -1;
  bool merged_away = false;
};

class Merger {
 public:
  Merger(const MergeTable& table, const std::vector<int32_t>& ids) : table_(table) {
    const int32_t count = static_cast<int32_t>(ids.size());
    symbols_.reserve(ids.size());
    for (int32_t i = 0; i < count; ++i) {
      symbols_.push_back({ids[i], i - 1, i + 1 < count ? i + 1 : -1});
    }
    for (int32_t i = 0; i + 1 < count; ++i) Collect(i);
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
  }

  void Run() {
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
      const Candidate top = heap_.back();
      heap_.pop_back();
      Symbol& left = symbols_[top.position];
      if (left.merged_away || left.next < 0) continue;
      // The pair may have changed since. Only the result is compared, as Hugging Face does.
      const auto now = table_.Find(left.id, symbols_[left.next].id, scratch_);
      if (!now || now->id != top.id) continue;
      MergeAt(top.position, top.id);
    }
  }

  void Store(std::vector<int32_t>& ids) const {
    ids.clear();
    for (const Symbol& s : symbols_) {
      if (!s.merged_away) ids.push_back(s.id);
    }
  }

 private:
  bool Collect(int32_t position) {
    const Symbol& left = symbols_[position];
    const auto merge = table_.Find(left.id, symbols_[left.next].id, scratch_);
    if (merge) heap_.push_back({merge->rank, position, merge->id});
    return merge.has_value();
  }
  void Push(int32_t position) {
    if (Collect(position)) std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  }
  void MergeAt(int32_t position, int32_t id) {
    Symbol& left = symbols_[position];
    Symbol& right = symbols_[left.next];
    right.merged_away = true;
    left.id = id;
    left.next = right.next;
    if (left.next >= 0) symbols_[left.next].previous = position;
    if (left.previous >= 0) Push(left.previous);
    if (left.next >= 0) Push(position);
  }

  const MergeTable& table_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
  std::string scratch_;
};

uint16_t CountChars(std::string_view text) {
  return static_cast<uint16_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

}  // namespace

std::optional<MergeTable::Merge> PairMerges::Find(int32_t left, int32_t right, std::string&) const {
  const auto it = merges_.find(Key(left, right));
  if (it == merges_.end()) return std::nullopt;
  return it->second;
}

JoinMerges::JoinMerges(const std::vector<std::string>& tokens, const VocabularyMap& vocabulary,
                       std::vector<int32_t> order)
    : tokens_(tokens), vocabulary_(vocabulary), order_(std::move(order)) {
  CHECK(order_.size() == tokens_.size() && tokens_.size() <= kVocabularyMax);
  chars_.reserve(tokens.size());
  for (const std::string& token : tokens_) {
    chars_.push_back(CountChars(token));
    CHECK(chars_.back() <= kTokenCharsMax);
    bytes_max_ = std::max(bytes_max_, token.size());
  }
}

std::optional<MergeTable::Merge> JoinMerges::Find(int32_t left, int32_t right,
                                                  std::string& scratch) const {
  const std::string& a = tokens_[left];
  const std::string& b = tokens_[right];
  if (a.empty() || b.empty() || a.size() + b.size() > bytes_max_) return std::nullopt;
  scratch.assign(a).append(b);
  const auto it = vocabulary_.find(scratch);
  if (it == vocabulary_.end() || order_[it->second] < 0) return std::nullopt;
  // 20 bits order, 12 and 12 lengths (longer first), 20 bits id.
  const uint64_t rank = uint64_t(order_[it->second]) << 44 |
                        uint64_t(kTokenCharsMax - chars_[left]) << 32 |
                        uint64_t(kTokenCharsMax - chars_[right]) << 20 | uint64_t(it->second);
  return Merge{rank, it->second};
}

void MergeAll(const MergeTable& table, std::vector<int32_t>& ids) {
  if (ids.size() < 2) return;
  Merger merger(table, ids);
  merger.Run();
  merger.Store(ids);
}

}  // namespace echelon
