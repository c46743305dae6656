#pragma once
// BlockManager: who owns which KV page. Pages are numbers below pages_total, the same on every
// rank. Invariant (CheckInvariants, run when idle and in every test): every page is free or stands
// exactly once in one sequence's table.
//
// Thread: the coordinator's.

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "common/step.h"

namespace echelon {

class BlockManager {
 public:
  BlockManager(int32_t pages_total, int32_t page_tokens);

  int32_t pages_total() const { return static_cast<int32_t>(pages_.size()); }
  int32_t pages_free() const { return static_cast<int32_t>(free_.size()); }
  int32_t page_tokens() const { return page_tokens_; }
  int32_t PagesFor(int64_t tokens) const {
    return static_cast<int32_t>((tokens + page_tokens_ - 1) / page_tokens_);
  }

  // How many pages `id` lacks so that `tokens` positions have a place.
  int32_t PagesMissing(SequenceId id, int64_t tokens) const;
  // Appends `count` pages to the sequence's table and returns them. count <= pages_free().
  std::vector<int32_t> Append(SequenceId id, int32_t count);
  // Records the content of a page that became full: a hash over all tokens up to its end.
  void SetHash(SequenceId id, int32_t page_index, uint64_t hash);
  // Frees the whole table. Nothing happens for an unknown sequence.
  void Free(SequenceId id);
  const std::vector<int32_t>* TableOf(SequenceId id) const;
  uint64_t HashOf(int32_t page) const { return pages_.at(page).hash; }

  void CheckInvariants() const;

 private:
  struct Page {
    SequenceId owner = 0;
    bool used = false;
    uint64_t hash = 0;  // of the content, 0 = not full
  };
  const int32_t page_tokens_;
  std::vector<Page> pages_;
  std::vector<int32_t> free_;  // a stack: the page freed last is warm
  std::unordered_map<SequenceId, std::vector<int32_t>> tables_;
};

}  // namespace echelon
