#pragma once
// How sequence parallelism shares out a sequence's pages, as formulas. Page p of a sequence belongs
// to part p % parts; part c lies on sp rank (first + c) % parts, `first` being where page 0 lies. A
// part's own pages laid end to end are its places: page p is page p / parts of its part. Whatever
// range of positions a row sees, it sees one range of places of every part, since parts take whole
// pages in turn.

#include <algorithm>
#include <cstdint>

#include "common/parallel_layout.h"

namespace echelon {

struct PageParts {
  int parts = 1;
  int page_tokens = 16;

  int RankOf(int part, int first) const { return (first + part) % parts; }
  int PartOf(int rank, int first) const { return (rank - first + parts) % parts; }
  // How many of the positions [0, end) lie in `part`: whole rounds over all parts, then the rest.
  int64_t Places(int part, int64_t end) const {
    const int64_t round = int64_t{page_tokens} * parts;
    const int64_t rest = end % round - int64_t{part} * page_tokens;
    return end / round * page_tokens + std::clamp<int64_t>(rest, 0, page_tokens);
  }
  // The places of `part` that hold positions [begin, end).
  Range PlacesOf(int part, Range positions) const {
    return {Places(part, positions.begin), Places(part, positions.end)};
  }
};

// What a row at `position` sees through a window of so many positions (0 = all before it).
inline Range PositionsSeen(int64_t position, int window) {
  return {window > 0 ? std::max<int64_t>(0, position - window + 1) : 0, position + 1};
}

// How many pairs of a row and a position that it sees `rows` rows from `position` on have.
inline int64_t PairsSeen(int64_t position, int64_t rows, int window) {
  const int64_t growing = window > 0 ? std::clamp<int64_t>(window - position, 0, rows) : rows;
  return growing * (2 * position + growing + 1) / 2 + (rows - growing) * window;
}

}  // namespace echelon
