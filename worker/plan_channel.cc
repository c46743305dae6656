#include "worker/plan_channel.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

namespace echelon {

PlanChannel::PlanChannel(Communicator& world) : comm_(world.Split(0, world.rank())) {
  comm_->SetArrived([this](CommHandle handle) {
    if (handle.ticket == coming_.ticket) has_come_ = true;
  });
}

void PlanChannel::Expect() {
  if (coming_.ticket == 0) coming_ = comm_->Broadcast(first_.data(), first_.size(), 0);
}

bool PlanChannel::Ready() {
  Expect();
  if (!has_come_) comm_->MoveOn();
  return has_come_;
}

void PlanChannel::Publish(const std::string& plan) {
  comm_->Wait(sent_);  // the buffers of the plan before
  const uint64_t size = plan.size();
  const size_t inlined = std::min<size_t>(size, kInlineBytes);
  std::memcpy(first_.data(), &size, sizeof(size));
  std::memcpy(first_.data() + sizeof(size), plan.data(), inlined);
  sent_ = comm_->Broadcast(first_.data(), first_.size(), 0);
  if (size > inlined) {
    rest_ = plan.substr(inlined);
    sent_ = comm_->Broadcast(rest_.data(), rest_.size(), 0);
  }
}

std::optional<std::string> PlanChannel::Next() {
  Expect();
  comm_->Wait(std::exchange(coming_, {}));
  has_come_ = false;
  uint64_t size = 0;
  std::memcpy(&size, first_.data(), sizeof(size));
  if (size == 0) return std::nullopt;
  const size_t inlined = std::min<size_t>(size, kInlineBytes);
  std::string plan(first_.data() + sizeof(size), inlined);
  if (size > inlined) {
    plan.resize(size);
    comm_->Wait(comm_->Broadcast(plan.data() + inlined, size - inlined, 0));
  }
  return plan;
}

}  // namespace echelon
