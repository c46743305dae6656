#include "worker/sequence_plan.h"

#include <algorithm>
#include <map>
#include <utility>

#include "common/check.h"
#include "common/step_buffers.h"

namespace echelon {

static_assert(kRingSplit == kAttentionSplit);

int64_t AttentionPlan::QueryPartials(int r) const {
  const int64_t before = r < rank ? r : r - 1;
  return static_cast<int64_t>(own.begin.size()) + before * static_cast<int64_t>(query_rows.size());
}
int64_t AttentionPlan::CopiedPartials() const {
  const auto others = static_cast<int64_t>(query_counts.size()) - 1;
  return static_cast<int64_t>(own.begin.size()) + others * static_cast<int64_t>(query_rows.size());
}
int64_t AttentionPlan::KeyPartials(int r) const {
  const int64_t before = r < rank ? r : r - 1;
  return CopiedPartials() + static_cast<int64_t>(query_counts.size() * copied_rows.size()) +
         before * static_cast<int64_t>(key_rows.size());
}

SequencePlan::SequencePlan(const SequenceSharing& sharing, const BatchLayout& all)
    : sharing_(sharing), all_(all) {
  const PageParts& parts = sharing_.parts;
  int64_t decodes = 0;
  for (const SequenceRows& rows : all_.steps) decodes += rows.end - rows.begin == 1 ? 1 : 0;
  std::vector<int32_t> counts(parts.parts, 0);
  owners_.resize(all_.ids.size());
  places_.resize(all_.ids.size());
  for (size_t s = 0; s < all_.steps.size(); ++s) {
    const SequenceRows& rows = all_.steps[s];
    Sequence sequence;
    sequence.first = all_.pages[all_.page_begin[s]] / sharing_.pages_per_rank;
    sequence.row_begin = rows.begin;
    sequence.rows = rows.end - rows.begin;
    sequence.position = all_.positions[rows.begin];
    sequence.copied = sequence.rows == 1 && decodes <= kCopiedRowsMax;
    sequences_.push_back(sequence);
    for (int t = rows.begin; t < rows.end; ++t) {
      const int part = all_.positions[t] / parts.page_tokens % parts.parts;
      const int owner = parts.RankOf(part, sequence.first);
      owners_[t] = sequence.copied ? -1 : owner;
      places_[t] = counts[sequence.copied ? sharing_.rank : owner];
      for (int r = 0; r < parts.parts; ++r) counts[r] += sequence.copied || r == owner ? 1 : 0;
    }
  }
  own_.page_begin = all_.page_begin;
  own_.steps = all_.steps;
  for (const int32_t page : all_.pages) {
    const bool here = page / sharing_.pages_per_rank == sharing_.rank;
    own_.pages.push_back(here ? page % sharing_.pages_per_rank : -1);
  }
  for (size_t t = 0; t < all_.ids.size(); ++t) {
    if (owners_[t] != -1 && owners_[t] != sharing_.rank) continue;
    own_rows_.push_back(static_cast<int32_t>(t));
    own_.ids.push_back(all_.ids[t]);
    own_.positions.push_back(all_.positions[t]);
    own_.sequences.push_back(all_.sequences[t]);
  }
}

Range SequencePlan::Seen(const Sequence& s, int part, int window) const {
  const Range first = PositionsSeen(s.position, window);
  return sharing_.parts.PlacesOf(part, {first.begin, s.position + s.rows});
}

Range SequencePlan::SeenOnRank(int64_t row, int rank, int window) const {
  const int first = sequences_[all_.sequences[row]].first;
  return sharing_.parts.PlacesOf(sharing_.parts.PartOf(rank, first),
                                 PositionsSeen(all_.positions[row], window));
}

int64_t SequencePlan::PagesSeen(const Sequence& s, int window) const {
  int64_t pages = 0;
  for (int part = 0; part < sharing_.parts.parts; ++part) {
    const Range seen = Seen(s, part, window);
    const int page_tokens = sharing_.parts.page_tokens;
    if (!seen.empty()) pages += (seen.end - 1) / page_tokens - seen.begin / page_tokens + 1;
  }
  return pages;
}

// The published rule (Context Parallelism for Scalable Million-Token Inference, 2024): what would
// be waited for, in bytes of the link. N ranks, each with an Nth of the rows and of the places.
//
//   keys     each of N - 1 hops moves an Nth of the keys and values behind one attention of an Nth
//            of the rows over an Nth of the places
//   queries  to N - 1 ranks behind the attention of this rank's own places; the partials that come
//            back hide behind nothing
//
// Where nothing hides (bytes_per_pair = 0) this is: which moves fewer bytes. Keys hide wholly, and
// are passed, from T = N * compute * kv_heads * element bytes / (2 * heads * bandwidth) rows on,
// however long the context.
Passing SequencePlan::PassingOf(int s, int window) const {
  const Sequence& sequence = sequences_[s];
  if (sequence.copied) return Passing::kCopied;
  const double ranks = sharing_.parts.parts, hops = ranks - 1;
  const auto rows = static_cast<double>(sequence.rows) / ranks;
  const auto pairs = static_cast<double>(PairsSeen(sequence.position, sequence.rows, window));
  const double hidden = sharing_.bytes_per_pair * pairs / (ranks * ranks);
  const double page_bytes = static_cast<double>(PagesSeen(sequence, window) * sharing_.page_bytes);
  const double keys = hops * std::max(0.0, page_bytes / ranks - hidden);
  const double queries =
      std::max(0.0, hops * rows * static_cast<double>(sharing_.query_bytes) - hidden) +
      hops * rows * static_cast<double>(sharing_.partial_bytes);
  return queries < keys ? Passing::kQueries : Passing::kKeys;
}

// The pages of every sequence that lie on this rank.
void SequencePlan::AddPages(AttendList& list) const {
  list.page_begin.push_back(0);
  for (size_t s = 0; s < sequences_.size(); ++s) {
    const int part = sharing_.parts.PartOf(sharing_.rank, sequences_[s].first);
    for (int32_t p = all_.page_begin[s] + part; p < all_.page_begin[s + 1];
         p += sharing_.parts.parts) {
      list.pages.push_back(own_.pages[p]);
    }
    list.page_begin.push_back(static_cast<int32_t>(list.pages.size()));
  }
}

AttentionPlan SequencePlan::Attention(int window) const {
  AttentionPlan plan;
  const int me = sharing_.rank;
  plan.rank = me;
  plan.query_counts.assign(sharing_.parts.parts, 0);
  AddPages(plan.own);
  AddPages(plan.foreign);
  const auto add = [&](AttendList& list, int64_t row) {
    const Range seen = SeenOnRank(row, me, window);
    list.sequences.push_back(all_.sequences[row]);
    list.begin.push_back(static_cast<int32_t>(seen.begin));
    list.end.push_back(static_cast<int32_t>(seen.end));
  };
  std::vector<Passing> passing;
  for (size_t s = 0; s < sequences_.size(); ++s) {
    passing.push_back(PassingOf(static_cast<int>(s), window));
    plan.query_sequences += passing.back() == Passing::kQueries ? 1 : 0;
    plan.key_sequences += passing.back() == Passing::kKeys ? 1 : 0;
  }
  for (size_t i = 0; i < own_rows_.size(); ++i) {
    add(plan.own, own_rows_[i]);
    const Passing what = passing[all_.sequences[own_rows_[i]]];
    auto& rows = what == Passing::kCopied    ? plan.copied_rows
                 : what == Passing::kQueries ? plan.query_rows
                                             : plan.key_rows;
    rows.push_back(static_cast<int32_t>(i));
  }
  for (int r = 0; r < sharing_.parts.parts; ++r) {
    for (size_t t = 0; t < owners_.size(); ++t) {
      if (owners_[t] != r || passing[all_.sequences[t]] != Passing::kQueries) continue;
      ++plan.query_counts[r];
      if (r != me) add(plan.foreign, static_cast<int64_t>(t));
    }
  }
  AddPasses(window, plan);
  AddMerge(window, plan);
  return plan;
}

// Blocks of `ring_pages` pages of a part, greedily together while every rank's pages fit a message;
// two blocks of one sequence never travel together, since the second continues the first.
void SequencePlan::AddPasses(int window, AttentionPlan& plan) const {
  const PageParts& parts = sharing_.parts;
  std::vector<std::pair<int, int64_t>> blocks;  // sequence, first page of its parts
  std::vector<int64_t> used(parts.parts, 0);
  const auto close = [&] {
    if (!blocks.empty()) plan.passes.push_back(MakePass(blocks, window, plan));
    blocks.clear();
    used.assign(parts.parts, 0);
  };
  for (size_t s = 0; s < sequences_.size(); ++s) {
    if (PassingOf(static_cast<int>(s), window) != Passing::kKeys) continue;
    int64_t begin = INT64_MAX, end = 0;
    for (int c = 0; c < parts.parts; ++c) {
      const Range seen = Seen(sequences_[s], c, window);
      if (seen.empty()) continue;
      begin = std::min(begin, seen.begin / parts.page_tokens);
      end = std::max(end, (seen.end - 1) / parts.page_tokens + 1);
    }
    const int64_t step = sharing_.ring_pages;
    for (int64_t block = begin / step * step; block < end; block += step) {
      std::vector<int64_t> more(parts.parts);
      bool fits = blocks.empty() || blocks.back().first != static_cast<int>(s);
      for (int r = 0; r < parts.parts; ++r) {
        const Range seen = Seen(sequences_[s], parts.PartOf(r, sequences_[s].first), window);
        const int64_t from = std::max(block, seen.begin / parts.page_tokens);
        const int64_t to =
            std::min(block + step, (seen.end + parts.page_tokens - 1) / parts.page_tokens);
        more[r] = seen.empty() ? 0 : std::max<int64_t>(0, to - from);
        fits = fits && used[r] + more[r] <= step;
      }
      if (!fits) close();
      for (int r = 0; r < parts.parts; ++r) used[r] += more[r];
      blocks.emplace_back(static_cast<int>(s), block);
    }
  }
  close();
}

RingPass SequencePlan::MakePass(const std::vector<std::pair<int, int64_t>>& blocks, int window,
                                const AttentionPlan& plan) const {
  const PageParts& parts = sharing_.parts;
  const int64_t tokens = parts.page_tokens, step = sharing_.ring_pages;
  RingPass pass;
  for (int r = 0; r < parts.parts; ++r) {
    AttendList list;
    list.page_begin.push_back(0);
    int32_t staged = 0;
    size_t next = 0;
    std::vector<int64_t> block_of(sequences_.size(), -1);
    for (size_t s = 0; s < sequences_.size(); ++s) {
      if (next < blocks.size() && blocks[next].first == static_cast<int>(s)) {
        const int64_t block = blocks[next++].second;
        const int part = parts.PartOf(r, sequences_[s].first);
        const Range seen = Seen(sequences_[s], part, window);
        block_of[s] = block;
        const int64_t end = seen.empty() ? block : (seen.end + tokens - 1) / tokens;
        for (int64_t page = block; page < std::min(block + step, end); ++page) {
          const bool wanted = page >= seen.begin / tokens;
          list.pages.push_back(wanted ? staged++ : -1);
          if (!wanted || r != sharing_.rank) continue;
          pass.own_pages.push_back(own_.pages[all_.page_begin[s] + part + page * parts.parts]);
        }
      }
      list.page_begin.push_back(static_cast<int32_t>(list.pages.size()));
    }
    pass.page_count.push_back(staged);
    for (const int32_t i : plan.key_rows) {
      const int64_t row = own_rows_[i];
      const int32_t s = all_.sequences[row];
      const Range seen = SeenOnRank(row, r, window);
      const int64_t base = block_of[s] * tokens;
      const bool here = block_of[s] >= 0 && !seen.empty() && seen.begin < base + step * tokens;
      list.sequences.push_back(s);
      list.begin.push_back(here ? static_cast<int32_t>(seen.begin - base) : 0);
      list.end.push_back(
          here ? static_cast<int32_t>(std::min(seen.end, base + step * tokens) - base) : 0);
    }
    pass.lists.push_back(std::move(list));
  }
  return pass;
}

void SequencePlan::AddMerge(int window, AttentionPlan& plan) const {
  const PageParts& parts = sharing_.parts;
  // Where an own row stands among the rows of its kind.
  std::vector<int32_t> place(own_rows_.size());
  for (const auto* rows : {&plan.query_rows, &plan.copied_rows, &plan.key_rows}) {
    for (size_t i = 0; i < rows->size(); ++i) place[(*rows)[i]] = static_cast<int32_t>(i);
  }
  plan.merge_begin.push_back(0);
  for (size_t i = 0; i < own_rows_.size(); ++i) {
    const int32_t s = all_.sequences[own_rows_[i]];
    const Passing what = PassingOf(s, window);
    for (int c = 0; c < parts.parts; ++c) {
      const int r = parts.RankOf(c, sequences_[s].first);
      if (SeenOnRank(own_rows_[i], r, window).empty()) continue;
      int64_t at = static_cast<int64_t>(i);
      if (what == Passing::kCopied) {
        at = plan.CopiedPartials() + r * static_cast<int64_t>(plan.copied_rows.size()) + place[i];
      } else if (r != sharing_.rank) {
        at = (what == Passing::kQueries ? plan.QueryPartials(r) : plan.KeyPartials(r)) + place[i];
      }
      plan.merge_parts.push_back(static_cast<int32_t>(at));
    }
    plan.merge_begin.push_back(static_cast<int32_t>(plan.merge_parts.size()));
  }
}

}  // namespace echelon
