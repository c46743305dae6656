#pragma once
// The contracts of backend.h as code: every backend calls these at its door, so that a wrong shape
// ends in the caller's frame. CHECKs: shapes come from our own tables, never from input.

#include <span>

#include "kernels/backend.h"

namespace echelon {

void CheckParts(std::span<const HostMatrix> parts);
void CheckKvShape(const KvShape& shape);
void CheckRows(const BatchRows& rows, int64_t tokens, const KvShape& kv);
void CheckRopeAppend(const QkvArgs& args);
void CheckAttention(const AttentionArgs& args);
void CheckMerge(const MergeArgs& args);
void CheckGated(const Tensor& gate_up, const Tensor& out);

}  // namespace echelon
