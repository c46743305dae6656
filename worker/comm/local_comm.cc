#include "worker/comm/local_comm.h"

#include <numeric>

#include "common/check.h"
#include "worker/comm/group_comm.h"

namespace echelon {

namespace {

std::shared_ptr<SharedSegment> NewSegment(size_t bytes) {
  auto segment = SharedSegment::Create(bytes);
  CHECK_MSG(segment.ok(), segment.error().message);
  (*segment)->CloseDescriptor();
  return *std::move(segment);
}

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeLocalCommunicators(int size) {
  CHECK(size > 0);
  const auto bells = NewSegment(size * sizeof(Bell));
  const auto segment = size > 1 ? NewSegment(NearGroup::SegmentBytes(size)) : nullptr;
  const Patience patience = PatienceFor(size);
  std::vector<int> seats(size);
  std::iota(seats.begin(), seats.end(), 0);
  std::vector<std::unique_ptr<Communicator>> endpoints;
  for (int rank = 0; rank < size; ++rank) {
    endpoints.push_back(std::make_unique<GroupCommunicator>(
        std::make_shared<Progress>(HostPlace{0, rank, rank, bells}, patience),
        GroupMembers(rank, std::vector<int>(size, 0), seats), segment, nullptr));
  }
  return endpoints;
}

}  // namespace echelon
