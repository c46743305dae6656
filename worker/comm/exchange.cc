#include "worker/comm/exchange.h"

#include <cstring>
#include <vector>

#include "common/check.h"

namespace echelon {

namespace {

// Messages that are written, read, sent and received side by side.
class Exchange final : public GroupOperation {
 public:
  explicit Exchange(GroupWires& wires) : wires_(wires) {}

  void Write(NearOutgoing& to, const void* data, size_t bytes) {
    writes_.emplace_back(to, data, bytes).Advance();
    wires_.bytes_sent += bytes * to.readers.size();
  }
  void Read(NearIncoming& from, void* into, size_t bytes) {
    reads_.emplace_back(from, into, bytes);
  }
  void SendFar(const void* data, size_t bytes, int to, FarTag tag) {
    Far().Send(data, bytes, to, tag);
    wires_.bytes_sent += bytes;
  }
  void RecvFar(void* data, size_t bytes, int from, FarTag tag) {
    Far().Recv(data, bytes, from, tag);
  }

  bool Advance() override {
    if (far_ && far_->Test()) far_.reset();
    bool done = far_ == nullptr;
    for (NearWrite& write : writes_) {
      if (!write.Advance()) done = false;
    }
    for (NearRead& read : reads_) {
      if (!read.Advance()) done = false;
    }
    return done;
  }
  bool awaits_other_hosts() const override { return far_ != nullptr; }

 private:
  FarBatch& Far() {
    if (!far_) far_ = wires_.far->NewBatch();
    return *far_;
  }

  GroupWires& wires_;
  std::vector<NearWrite> writes_;
  std::vector<NearRead> reads_;
  std::unique_ptr<FarBatch> far_;
};

// Sends to the ranks of other hosts, starting behind one's own, so that not all begin with rank 0.
void SendToAllFar(const GroupMembers& members, Exchange& exchange, const void* data, size_t bytes) {
  for (int i = 1; i < members.size(); ++i) {
    const int to = (members.rank + i) % members.size();
    if (!members.IsNear(to)) exchange.SendFar(data, bytes, to, FarTag::kCollective);
  }
}

}  // namespace

std::unique_ptr<GroupOperation> MakeAllGather(GroupWires& wires, const void* send, void* recv,
                                              size_t bytes) {
  const GroupMembers& members = wires.members;
  auto exchange = std::make_unique<Exchange>(wires);
  auto* out = static_cast<std::byte*>(recv);
  std::byte* own = out + members.rank * bytes;
  if (bytes > 0 && own != send) std::memmove(own, send, bytes);
  if (wires.near) {
    exchange->Write(wires.near->outbox, own, bytes);
    for (int i = 0; i < wires.near->size(); ++i) {
      const int rank = members.near[i];
      if (rank != members.rank) {
        exchange->Read(wires.near->outbox_of[i], out + rank * bytes, bytes);
      }
    }
  }
  for (int from = 0; from < members.size(); ++from) {
    if (members.IsNear(from)) continue;
    exchange->RecvFar(out + from * bytes, bytes, from, FarTag::kCollective);
  }
  SendToAllFar(members, *exchange, own, bytes);
  return exchange;
}

std::unique_ptr<GroupOperation> MakeBroadcast(GroupWires& wires, void* data, size_t bytes,
                                              int root) {
  const GroupMembers& members = wires.members;
  CHECK(0 <= root && root < members.size());
  auto exchange = std::make_unique<Exchange>(wires);
  if (members.rank == root) {
    if (wires.near) exchange->Write(wires.near->outbox, data, bytes);
    SendToAllFar(members, *exchange, data, bytes);
  } else if (members.IsNear(root)) {
    exchange->Read(wires.near->outbox_of[members.index_on_host[root]], data, bytes);
  } else {
    exchange->RecvFar(data, bytes, root, FarTag::kCollective);
  }
  return exchange;
}

std::unique_ptr<GroupOperation> MakeSend(GroupWires& wires, const void* data, size_t bytes,
                                         int to) {
  const GroupMembers& members = wires.members;
  CHECK(0 <= to && to < members.size() && to != members.rank);
  auto exchange = std::make_unique<Exchange>(wires);
  if (members.IsNear(to)) {
    exchange->Write(wires.near->mail_to[members.index_on_host[to]], data, bytes);
  } else {
    exchange->SendFar(data, bytes, to, FarTag::kPoint);
  }
  return exchange;
}

std::unique_ptr<GroupOperation> MakeRecv(GroupWires& wires, void* data, size_t bytes, int from) {
  const GroupMembers& members = wires.members;
  CHECK(0 <= from && from < members.size() && from != members.rank);
  auto exchange = std::make_unique<Exchange>(wires);
  if (members.IsNear(from)) {
    exchange->Read(wires.near->mail_from[members.index_on_host[from]], data, bytes);
  } else {
    exchange->RecvFar(data, bytes, from, FarTag::kPoint);
  }
  return exchange;
}

}  // namespace echelon
