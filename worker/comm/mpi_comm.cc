#include "worker/comm/mpi_comm.h"

#include <mpi.h>

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <tuple>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/strings.h"
#include "worker/comm/far_link.h"
#include "worker/comm/group_comm.h"

namespace echelon {

namespace {

// Under the launcher's eager limit (4 MiB, header included): a longer message waits for an answer
// of its receiver, then goes in fragments that each need a turn of both.
constexpr size_t kPieceBytes = size_t{1} << 20;

class MpiBatch final : public FarBatch {
 public:
  explicit MpiBatch(MPI_Comm comm) : comm_(comm) {}

  void Send(const void* data, size_t bytes, int to, FarTag tag) override {
    const auto* from = static_cast<const std::byte*>(data);
    InPieces(bytes, [&](size_t at, int count) {
      MPI_Isend(from + at, count, MPI_BYTE, to, static_cast<int>(tag), comm_, &Add(-1));
    });
  }
  void Recv(void* data, size_t bytes, int from, FarTag tag) override {
    auto* to = static_cast<std::byte*>(data);
    InPieces(bytes, [&](size_t at, int count) {
      MPI_Irecv(to + at, count, MPI_BYTE, from, static_cast<int>(tag), comm_, &Add(count));
    });
  }
  bool Test() override {
    if (open_ == 0) return true;
    done_.resize(requests_.size());
    statuses_.resize(requests_.size());
    int done = 0;
    MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &done, done_.data(),
                 statuses_.data());
    if (done == MPI_UNDEFINED) return open_ == 0;
    for (int i = 0; i < done; ++i) CheckSize(statuses_[i], expected_[done_[i]]);
    open_ -= done;
    return open_ == 0;
  }

 private:
  // An empty message is one piece.
  template <typename Body>
  static void InPieces(size_t bytes, Body body) {
    size_t at = 0;
    do {
      const size_t count = std::min(bytes - at, kPieceBytes);
      body(at, static_cast<int>(count));
      at += count;
    } while (at < bytes);
  }

  // MPI itself refuses only what is longer than expected.
  static void CheckSize(const MPI_Status& status, int expected) {
    int sent = 0;
    if (expected < 0) return;
    MPI_Get_count(&status, MPI_BYTE, &sent);
    CHECK_MSG(sent == expected, StrCat("rank ", status.MPI_SOURCE, " of the group sent ", sent,
                                       " bytes where ", expected, " are expected"));
  }

  // expected: bytes to be received; -1: they are sent.
  MPI_Request& Add(int expected) {
    ++open_;
    expected_.push_back(expected);
    return requests_.emplace_back(MPI_REQUEST_NULL);
  }

  const MPI_Comm comm_;
  std::vector<MPI_Request> requests_;
  std::vector<int> expected_;  // of each request
  std::vector<int> done_;      // scratch
  std::vector<MPI_Status> statuses_;
  int open_ = 0;
};

class MpiLink final : public FarLink {
 public:
  explicit MpiLink(MPI_Comm comm) : comm_(comm) {}  // takes it
  ~MpiLink() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (!finalized) MPI_Comm_free(&comm_);
  }
  std::unique_ptr<FarBatch> NewBatch() override { return std::make_unique<MpiBatch>(comm_); }
  std::unique_ptr<FarLink> Split(int color, int key) override {
    MPI_Comm part;
    MPI_Comm_split(comm_, color, key, &part);
    return std::make_unique<MpiLink>(part);
  }

 private:
  MPI_Comm comm_;
};

// The lowest rank of this rank's host, and how many there are.
std::tuple<int, int, int> LookAround(int rank) {
  MPI_Comm host;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
  int first = rank, ranks = 1, index = 0;
  MPI_Comm_size(host, &ranks);
  MPI_Comm_rank(host, &index);
  MPI_Bcast(&first, 1, MPI_INT, 0, host);
  MPI_Comm_free(&host);
  return {first, ranks, index};
}

}  // namespace

Result<std::unique_ptr<MpiEnvironment>> MpiEnvironment::Start(const MpiOptions& options) {
  int provided = MPI_THREAD_SINGLE;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) {
    return InternalError("MPI_Init_thread failed: see Open MPI's message above");
  }
  std::unique_ptr<MpiEnvironment> environment(new MpiEnvironment);
  if (provided < MPI_THREAD_FUNNELED) {
    return Unsupported("this MPI was built without threads (MPI_THREAD_FUNNELED)");
  }
  environment->TakePlace(options);
  return environment;
}

// Finds the ranks of this host and their bells. The world is first a group whose ranks are all on
// hosts of their own; over it they agree about the rest.
void MpiEnvironment::TakePlace(const MpiOptions& options) {
  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  int host = 0;
  std::tie(host, ranks_on_this_host_, rank_on_this_host_) = LookAround(rank);
  const Patience patience = PatienceFor(ranks_on_this_host_);
  if (options.pretended_host) host = options.pretended_host(rank);
  if (!options.shared_memory) host = rank;

  std::vector<int> everyone(size);
  std::iota(everyone.begin(), everyone.end(), 0);
  const auto all_far = [&](std::shared_ptr<Progress> progress) {
    MPI_Comm world;
    MPI_Comm_dup(MPI_COMM_WORLD, &world);
    return std::make_unique<GroupCommunicator>(std::move(progress),
                                               GroupMembers(rank, everyone, everyone), nullptr,
                                               std::make_unique<MpiLink>(world));
  };
  const auto first =
      all_far(std::make_shared<Progress>(HostPlace{rank, rank, 0, nullptr}, patience));
  std::vector<int> hosts(size);
  first->Wait(first->AllGather(&host, hosts.data(), sizeof(host)));
  const GroupMembers members(rank, hosts, everyone);
  const int near = static_cast<int>(members.near.size());
  SharedByRanks shared = ShareSegment(*first, members.near[0], near > 1 ? near * sizeof(Bell) : 0);
  shared_memory_problem_ = std::move(shared.problem);
  if (shared.failed[rank]) host = -1 - rank;
  HostPlace place{host, rank, members.index_on_host[rank], std::move(shared.segment)};
  progress_ = std::make_shared<Progress>(std::move(place), patience);
  base_ = all_far(progress_);
}

MpiEnvironment::~MpiEnvironment() {
  base_.reset();
  MPI_Finalize();
}

bool MpiEnvironment::MoveOn() const {
  const bool under_way = base_->MoveOn();
  int found = 0;
  MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &found, MPI_STATUS_IGNORE);
  return under_way;
}

std::unique_ptr<Communicator> MpiEnvironment::World() const { return base_->Split(0, 0); }

}  // namespace echelon
