#pragma once
// Operations of a group that move bytes and compute nothing. Sizes must agree between ranks.

#include <cstddef>
#include <memory>

#include "worker/comm/group_comm.h"

namespace echelon {

std::unique_ptr<GroupOperation> MakeAllGather(GroupWires& wires, const void* send, void* recv,
                                              size_t bytes);
std::unique_ptr<GroupOperation> MakeBroadcast(GroupWires& wires, void* data, size_t bytes,
                                              int root);
std::unique_ptr<GroupOperation> MakeSend(GroupWires& wires, const void* data, size_t bytes, int to);
std::unique_ptr<GroupOperation> MakeRecv(GroupWires& wires, void* data, size_t bytes, int from);

}  // namespace echelon
