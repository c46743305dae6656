#include "kernels/shape_check.h"

#include "common/check.h"

namespace echelon {

void CheckParts(std::span<const HostMatrix> parts) {
  CHECK(!parts.empty());
  const int64_t inputs = parts[0].col_end - parts[0].col_begin;
  for (const HostMatrix& part : parts) {
    const TensorFormatInfo& info = InfoOf(part.format);
    CHECK(part.rows >= 0 && part.cols > 0);
    CHECK(part.cols % info.block_elements == 0);
    CHECK(part.data != nullptr || part.rows == 0);
    CHECK(part.row_bytes >= part.cols / info.block_elements * info.block_bytes);
    CHECK(0 <= part.col_begin && part.col_begin < part.col_end && part.col_end <= part.cols);
    CHECK_MSG(part.col_end - part.col_begin == inputs, "stacked parts differ in columns");
  }
}

void CheckKvShape(const KvShape& shape) {
  CHECK(shape.layers >= 0 && shape.pages >= 0 && shape.page_tokens > 0);
  CHECK(shape.kv_heads > 0 && shape.head_dim > 0 && shape.head_dim % 2 == 0);
}

void CheckRows(const BatchRows& rows, int64_t tokens, const KvShape& kv) {
  CHECK(static_cast<int64_t>(rows.positions.size()) == tokens);
  CHECK(static_cast<int64_t>(rows.sequences.size()) == tokens);
  for (int64_t t = 0; t < tokens; ++t) {
    const int32_t s = rows.sequences[t];
    CHECK(s >= 0 && s + 1 < static_cast<int64_t>(rows.page_begin.size()));
    const int64_t pages = rows.page_begin[s + 1] - rows.page_begin[s];
    CHECK(rows.positions[t] >= 0 && rows.positions[t] / kv.page_tokens < pages);
    CHECK(rows.page_begin[s + 1] <= static_cast<int64_t>(rows.pages.size()));
  }
}

void CheckRopeAppend(const QkvArgs& args) {
  CHECK(args.cache != nullptr);
  const KvShape& kv = args.cache->shape();
  CHECK(args.head_dim == kv.head_dim && args.kv_heads == kv.kv_heads && args.heads >= 0);
  CHECK(args.layer >= 0 && args.layer < kv.layers);
  CHECK(args.qkv.cols == static_cast<int64_t>(args.heads + 2 * args.kv_heads) * args.head_dim);
  CHECK(static_cast<int64_t>(args.rope.inverse_frequency.size()) == args.head_dim / 2);
  CheckRows(args.rows, args.qkv.rows, kv);
}

namespace {
// Rows that see a part of their list of pages.
void CheckPlaces(const AttentionArgs& args, const KvShape& kv) {
  const BatchRows& rows = args.rows;
  CHECK(static_cast<int64_t>(args.begin.size()) == args.q.rows);
  CHECK(static_cast<int64_t>(args.end.size()) == args.q.rows);
  CHECK(static_cast<int64_t>(rows.sequences.size()) == args.q.rows);
  for (int64_t t = 0; t < args.q.rows; ++t) {
    const int32_t s = rows.sequences[t];
    CHECK(s >= 0 && s + 1 < static_cast<int64_t>(rows.page_begin.size()));
    CHECK(rows.page_begin[s + 1] <= static_cast<int64_t>(rows.pages.size()));
    const int64_t pages = rows.page_begin[s + 1] - rows.page_begin[s];
    CHECK(args.end[t] <= pages * kv.page_tokens);
  }
}
}  // namespace

void CheckAttention(const AttentionArgs& args) {
  CHECK(args.cache != nullptr);
  const KvShape& kv = args.cache->shape();
  CHECK(args.head_dim == kv.head_dim && args.heads >= 0 && args.group > 0 && args.window >= 0);
  CHECK(args.layer >= 0 && args.layer < kv.layers);
  ExpectShape(args.q, args.q.rows, static_cast<int64_t>(args.heads) * args.head_dim);
  if (args.heads > 0) {
    CHECK(args.head_begin / args.group - args.kv_begin >= 0);
    CHECK((args.head_begin + args.heads - 1) / args.group - args.kv_begin < kv.kv_heads);
  }
  if (args.begin.empty()) {
    ExpectShape(args.out, args.q.rows, args.q.cols);
    return CheckRows(args.rows, args.q.rows, kv);
  }
  ExpectShape(args.partials, args.q.rows, int64_t{args.heads} * (args.head_dim + 2));
  CheckPlaces(args, kv);
}

void CheckMerge(const MergeArgs& args) {
  ExpectShape(args.out, args.out.rows, int64_t{args.heads} * args.head_dim);
  ExpectShape(args.partials, args.partials.rows, int64_t{args.heads} * (args.head_dim + 2));
  CHECK(static_cast<int64_t>(args.begin.size()) == args.out.rows + 1);
  for (int64_t t = 0; t < args.out.rows; ++t) {
    CHECK(0 <= args.begin[t] && args.begin[t] < args.begin[t + 1]);
    CHECK(args.begin[t + 1] <= static_cast<int64_t>(args.parts.size()));
  }
  for (const int32_t part : args.parts) CHECK(0 <= part && part < args.partials.rows);
}

void CheckGated(const Tensor& gate_up, const Tensor& out) {
  CHECK(gate_up.cols % 2 == 0);
  ExpectShape(out, gate_up.rows, gate_up.cols / 2);
}

}  // namespace echelon
