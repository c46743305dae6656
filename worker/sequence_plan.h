#pragma once
// What sequence parallelism does in one step, as pure functions of the step's rows: who computes
// which row, what is passed between the sp ranks for the attention of a layer, and in which order
// the partial results of a row are merged. Every rank derives the same plan from the same StepPlan,
// so that nothing about it is ever sent.
//
// A row is computed by the rank that keeps its page; few decodes are computed by all ranks (their
// queries are then known everywhere). INVARIANT: a row's partials are merged in the order of its
// parts 0, 1, ..., whatever was passed, whatever came first, wherever page 0 lies: its bits depend
// on its sequence and on sp alone.

#include <cstdint>
#include <span>
#include <vector>

#include "common/step_rules.h"
#include "worker/batch_layout.h"
#include "worker/page_parts.h"

namespace echelon {

// What is passed for one sequence in one layer.
enum class Passing : uint8_t {
  kCopied,   // nothing before the attention: all ranks have the row; partials to all
  kQueries,  // queries to all ranks, partials back
  kKeys,     // keys and values round the ring
};

struct SequenceSharing {
  PageParts parts;
  int rank = 0;            // this rank of the sp group
  int pages_per_rank = 0;  // page id = rank of its keeper * pages_per_rank + its place there
  int ring_pages = 0;      // most pages of a rank in one message; a whole number of splits
  // Bytes of one layer, for the choice: a page of keys and values, a row's queries, its partials.
  int64_t page_bytes = 0, query_bytes = 0, partial_bytes = 0;
  // Bytes that the link between two ranks moves while a rank attends one place with one row (all
  // its heads): bandwidth / compute. 0: nothing travels behind attention, bytes alone count. The
  // same on all ranks; no bit depends on it.
  double bytes_per_pair = 0.0;
};

// Rows that attend the pages of one list: AttentionArgs::rows, begin and end.
struct AttendList {
  std::vector<int32_t> sequences, begin, end;  // (rows)
  std::vector<int32_t> page_begin, pages;      // (S + 1); page ids of the cache at hand
  BatchRows rows() const { return {{}, sequences, page_begin, pages}; }
};

// One trip of keys and values round the ring.
struct RingPass {
  std::vector<int32_t> own_pages;   // of this rank's cache, in the order they are sent
  std::vector<int32_t> page_count;  // (sp) pages that each rank sends
  std::vector<AttendList> lists;    // (sp) key rows against each rank's pages; own: unused
};

// The attention of this rank in layers of one window. Rows are rows of OwnRows() here.
struct AttentionPlan {
  AttendList own;                     // all rows, against this rank's own pages
  std::vector<int32_t> query_rows;    // rows whose queries are sent
  std::vector<int32_t> query_counts;  // (sp) the same of every rank
  AttendList foreign;                 // the other ranks' query rows in rank order, own pages
  std::vector<int32_t> copied_rows;   // the same rows on every rank
  std::vector<int32_t> key_rows;      // rows that the ring serves
  std::vector<RingPass> passes;
  uint32_t query_sequences = 0, key_sequences = 0;  // how many pass what
  // Partial rows: own rows first, then query rows for each other rank, then copied rows for every
  // rank, then key rows for each other rank.
  std::vector<int32_t> merge_begin, merge_parts;  // MergeArgs
  int64_t QueryPartials(int rank) const;
  int64_t CopiedPartials() const;
  int64_t KeyPartials(int rank) const;
  int rank = 0;
};

class SequencePlan {
 public:
  SequencePlan() = default;
  // `all`: the rows of the whole step, with page ids of the whole sp group.
  SequencePlan(const SequenceSharing& sharing, const BatchLayout& all);

  // The rows that this rank computes, in the step's order. Page ids are this rank's, -1 elsewhere.
  const BatchLayout& OwnRows() const { return own_; }
  // The rank that computes row t of the step; -1: all of them.
  int OwnerOf(int64_t t) const { return owners_[t]; }
  // The place of row t of the step among its owner's rows (among this rank's, where all have it).
  int32_t PlaceOf(int64_t t) const { return places_[t]; }
  Passing PassingOf(int sequence, int window) const;
  AttentionPlan Attention(int window) const;

 private:
  struct Sequence {
    int first = 0;                    // rank of page 0
    int64_t row_begin = 0, rows = 0;  // of the step
    int64_t position = 0;             // of the first row
    bool copied = false;
  };
  Range Seen(const Sequence& s, int part, int window) const;  // places, by any of its rows
  int64_t PagesSeen(const Sequence& s, int window) const;     // of all parts
  void AddPages(AttendList& list) const;
  Range SeenOnRank(int64_t row, int rank, int window) const;  // row of the step
  void AddPasses(int window, AttentionPlan& plan) const;
  RingPass MakePass(const std::vector<std::pair<int, int64_t>>& blocks, int window,
                    const AttentionPlan& plan) const;
  void AddMerge(int window, AttentionPlan& plan) const;

  SequenceSharing sharing_;
  BatchLayout all_, own_;
  std::vector<Sequence> sequences_;
  std::vector<int32_t> owners_, places_;  // (T)
  std::vector<int32_t> own_rows_;         // row of the step of each own row
};

}  // namespace echelon
