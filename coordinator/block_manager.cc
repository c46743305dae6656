#include "coordinator/block_manager.h"

#include <algorithm>

#include "common/check.h"

namespace echelon {

BlockManager::BlockManager(int32_t pages_total, int32_t page_tokens)
    : page_tokens_(page_tokens), pages_(pages_total) {
  CHECK(pages_total >= 0 && page_tokens > 0);
  for (int32_t page = pages_total; page-- > 0;) free_.push_back(page);
}

int32_t BlockManager::PagesMissing(SequenceId id, int64_t tokens) const {
  const auto* table = TableOf(id);
  const int32_t have = table == nullptr ? 0 : static_cast<int32_t>(table->size());
  return std::max(0, PagesFor(tokens) - have);
}

std::vector<int32_t> BlockManager::Append(SequenceId id, int32_t count) {
  CHECK(count >= 0 && count <= pages_free());
  std::vector<int32_t> added;
  if (count == 0) return added;
  std::vector<int32_t>& table = tables_[id];
  for (int32_t i = 0; i < count; ++i) {
    const int32_t page = free_.back();
    free_.pop_back();
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
  // In reverse, so that the table's first page is the next one handed out.
  for (size_t i = found->second.size(); i-- > 0;) {
    const int32_t page = found->second[i];
    pages_[page] = {};
    free_.push_back(page);
  }
  tables_.erase(found);
}

const std::vector<int32_t>* BlockManager::TableOf(SequenceId id) const {
  const auto found = tables_.find(id);
  return found == tables_.end() ? nullptr : &found->second;
}

void BlockManager::CheckInvariants() const {
  std::vector<int> seen(pages_.size(), 0);
  for (const int32_t page : free_) {
    CHECK(page >= 0 && page < pages_total());
    CHECK(!pages_[page].used);
    ++seen[page];
  }
  for (const auto& [id, table] : tables_) {
    for (const int32_t page : table) {
      CHECK(page >= 0 && page < pages_total());
      CHECK(pages_[page].used && pages_[page].owner == id);
      ++seen[page];
    }
  }
  for (const int count : seen) CHECK_MSG(count == 1, "a KV page is lost or owned twice");
}

}  // namespace echelon
