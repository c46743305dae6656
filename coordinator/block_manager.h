#pragma once
// BlockManager: who owns which KV page. Pages are numbers below pages_total; sp rank r keeps those
// from r * pages_total / sp on, the same numbers in every pipeline stage and tensor shard.
// Invariants (CheckInvariants, run when idle and in every test): every page is free or stands
// exactly once in one sequence's table; a table's pages lie on the sp ranks in turn.
//
// Thread: the coordinator's.

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "common/step.h"

namespace echelon {

class BlockManager {
 public:
  // sp: ranks that share the pages of a sequence; pages_total is a multiple of it.
  BlockManager(int32_t pages_total, int32_t page_tokens, int32_t sp = 1);

  int32_t pages_total() const { return static_cast<int32_t>(pages_.size()); }
  int32_t pages_free() const;  // of all sp ranks; CanAppend says whether they lie where they must
  int32_t pages_used(int32_t sp_rank) const {
    return pages_total() / sp_ - static_cast<int32_t>(free_[sp_rank].size());
  }
  int32_t page_tokens() const { return page_tokens_; }
  int32_t PagesFor(int64_t tokens) const {
    return static_cast<int32_t>((tokens + page_tokens_ - 1) / page_tokens_);
  }

  // How many pages `id` lacks so that `tokens` positions have a place.
  int32_t PagesMissing(SequenceId id, int64_t tokens) const;
  // Whether `count` pages can be appended to the sequence's table: each sp rank has its share free.
  bool CanAppend(SequenceId id, int32_t count) const;
  // Appends `count` pages to the sequence's table and returns them. CanAppend(id, count). Page 0 of
  // a new sequence goes to the sp rank with the most free pages that can take it, so that short
  // sequences spread, and of several such to the one where the fewest sequences begin.
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
  int32_t RankOf(int32_t page) const { return page / (pages_total() / sp_); }
  // Whether the sp ranks have `count` pages in turn, the first on `rank`.
  bool HasInTurn(int32_t rank, int32_t count) const;
  // Where the next `count` pages of the sequence begin; -1: there is no room.
  int32_t NextRank(SequenceId id, int32_t count) const;

  const int32_t page_tokens_;
  const int32_t sp_;
  std::vector<Page> pages_;
  std::vector<std::vector<int32_t>> free_;  // by sp rank, stacks: the page freed last is warm
  std::vector<int32_t> begun_;              // by sp rank: sequences whose first page is there
  std::unordered_map<SequenceId, std::vector<int32_t>> tables_;
};

}  // namespace echelon
