#include "coordinator/block_manager.h"

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace echelon {

BlockManager::BlockManager(int32_t pages_total, int32_t page_tokens, int32_t sp)
    : page_tokens_(page_tokens), sp_(sp), pages_(pages_total), free_(sp), begun_(sp) {
  CHECK(pages_total >= 0 && page_tokens > 0 && sp > 0 && pages_total % sp == 0);
  for (int32_t page = pages_total; page-- > 0;) free_[RankOf(page)].push_back(page);
}

int32_t BlockManager::pages_free() const {
  size_t free = 0;
  for (const auto& pages : free_) free += pages.size();
  return static_cast<int32_t>(free);
}

bool BlockManager::HasInTurn(int32_t rank, int32_t count) const {
  for (int32_t i = 0; i < std::min(sp_, count); ++i) {
    const size_t share = (count - i + sp_ - 1) / sp_;
    if (free_[(rank + i) % sp_].size() < share) return false;
  }
  return true;
}

int32_t BlockManager::NextRank(SequenceId id, int32_t count) const {
  const auto* table = TableOf(id);
  if (table != nullptr) {
    const auto next = static_cast<int32_t>((RankOf(table->front()) + table->size()) % sp_);
    return HasInTurn(next, count) ? next : -1;
  }
  int32_t best = -1;
  for (int32_t rank = 0; rank < sp_; ++rank) {
    if (!HasInTurn(rank, count)) continue;
    // Streams of one length are at the same place of the turn: begun on one rank, the rows of all
    // their decodes would be that rank's.
    const auto room = [&](int32_t of) { return std::pair(free_[of].size(), -begun_[of]); };
    if (best < 0 || room(rank) > room(best)) best = rank;
  }
  return best;
}

bool BlockManager::CanAppend(SequenceId id, int32_t count) const {
  return NextRank(id, count) >= 0;
}

int32_t BlockManager::PagesMissing(SequenceId id, int64_t tokens) const {
  const auto* table = TableOf(id);
  const int32_t have = table == nullptr ? 0 : static_cast<int32_t>(table->size());
  return std::max(0, PagesFor(tokens) - have);
}

std::vector<int32_t> BlockManager::Append(SequenceId id, int32_t count) {
  CHECK(count >= 0);
  std::vector<int32_t> added;
  if (count == 0) return added;
  const int32_t rank = NextRank(id, count);
  CHECK_MSG(rank >= 0, "more pages than pages_free()");
  std::vector<int32_t>& table = tables_[id];
  if (table.empty()) ++begun_[rank];
  for (int32_t i = 0; i < count; ++i) {
    std::vector<int32_t>& free = free_[(rank + i) % sp_];
    const int32_t page = free.back();
    free.pop_back();
    pages_[page] = {id, true, 0};
    table.push_back(page);
    added.push_back(page);
  }
  return added;
}

void BlockManager::SetHash(SequenceId id, int32_t page_index, uint64_t hash) {
  pages_[tables_.at(id).at(page_index)].hash = hash;
}

void BlockManager::Free(SequenceId id) {
  const auto found = tables_.find(id);
  if (found == tables_.end()) return;
  if (!found->second.empty()) --begun_[RankOf(found->second.front())];
  // In reverse, so that the table's first page is the next one handed out.
  for (size_t i = found->second.size(); i-- > 0;) {
    const int32_t page = found->second[i];
    pages_[page] = {};
    free_[RankOf(page)].push_back(page);
  }
  tables_.erase(found);
}

const std::vector<int32_t>* BlockManager::TableOf(SequenceId id) const {
  const auto found = tables_.find(id);
  return found == tables_.end() ? nullptr : &found->second;
}

void BlockManager::CheckInvariants() const {
  std::vector<int> seen(pages_.size(), 0);
  for (int32_t rank = 0; rank < sp_; ++rank) {
    for (const int32_t page : free_[rank]) {
      CHECK(page >= 0 && page < pages_total() && RankOf(page) == rank);
      CHECK(!pages_[page].used);
      ++seen[page];
    }
  }
  for (const auto& [id, table] : tables_) {
    for (size_t i = 0; i < table.size(); ++i) {
      const int32_t page = table[i];
      CHECK(page >= 0 && page < pages_total());
      CHECK(RankOf(page) == static_cast<int32_t>((RankOf(table[0]) + i) % sp_));
      CHECK(pages_[page].used && pages_[page].owner == id);
      ++seen[page];
    }
  }
  for (const int count : seen) CHECK_MSG(count == 1, "a KV page is lost or owned twice");
}

}  // namespace echelon
