// Communicators of devices over a played NCCL: the contract, the two ways of summing, and what a
// group that cannot be made says.

#include "worker/comm/device_comm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/support/comm_contract.h"
#include "tests/support/worker/played_link.h"
#include "tests/support/worker/played_nccl.h"
#include "worker/comm/local_comm.h"
#include "worker/comm/nccl_wire.h"

namespace echelon {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A rank's thread: its backend, its library and what a wire of it says.
struct Rank {
  Rank(testing::PlayedFabric& fabric, int rank) {
    wire.library = fabric.Library();
    wire.watch = std::make_shared<WireWatch>();
    wire.card.name = StrCat("device ", rank);
    wire.card.uuid[0] = static_cast<uint8_t>(1 + rank);
    wire.card.runtime_version = 13000;
    wire.host = StrCat("host", rank);
    wire.join_ms = 20'000;
  }
  DeviceCommOptions Options() {
    DeviceCommOptions options;
    options.backend = backend.get();
    options.connect = [this](Communicator& host) -> Result<DeviceLine> {
      ASSIGN_OR_RETURN(auto made, NcclWire::Make(host, wire));
      return DeviceLine{std::make_unique<testing::PlayedLink>(), std::move(made)};
    };
    return options;
  }

  std::unique_ptr<Backend> backend = *MakeBackend({.name = "reference"});
  NcclWireOptions wire;
};

// Runs `body(rank, host communicator)` on a thread per rank.
template <typename Body>
void OnRanks(int size, Body body) {
  auto endpoints = MakeLocalCommunicators(size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] { body(rank, std::move(endpoints[rank])); });
  }
  for (auto& thread : threads) thread.join();
}

class DeviceComm : public ::testing::TestWithParam<int> {};

TEST_P(DeviceComm, KeepsTheContract) {
  testing::PlayedFabric fabric;
  std::vector<std::vector<std::string>> broken(GetParam());
  OnRanks(GetParam(), [&](int number, std::unique_ptr<Communicator> host) {
    Rank rank(fabric, number);
    const auto comm = *DeviceCommunicator::Make(std::move(host), rank.Options());
    EXPECT_TRUE(comm->on_stream());
    broken[number] = testing::CheckCommunicatorContract(*comm, rank.backend.get());
  });
  for (const auto& lines : broken) {
    for (const auto& line : lines) ADD_FAILURE() << line;
  }
}

// Thresholds so low that every way is taken, in pieces: whole, slices, whole in pieces where slices
// are not even.
TEST_P(DeviceComm, SumsInRankOrderOnEveryWay) {
  testing::PlayedFabric fabric;
  std::vector<std::vector<std::string>> broken(GetParam());
  OnRanks(GetParam(), [&](int number, std::unique_ptr<Communicator> host) {
    Rank rank(fabric, number);
    DeviceCommOptions options = rank.Options();
    options.one_shot_bytes_max = 400;
    options.scratch_bytes = 8192;
    const auto comm = *DeviceCommunicator::Make(std::move(host), options);
    testing::ContractChecker check(*comm, rank.backend.get());
    for (const int64_t count : {1, 100, 101, 120, 1200, 12'000, 12'007}) {
      check.AllReduceInRankOrder(count);
      for (const bool waits : {false, true}) check.RowsInRankOrder(count, 1, waits);
    }
    broken[number] = check.TakeBroken();
  });
  for (const auto& lines : broken) {
    for (const auto& line : lines) ADD_FAILURE() << line;
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, DeviceComm, ::testing::Range(1, 5));

// More ranks than a pass adds terms of.
TEST(DeviceComm, ManyRanksAddInSeveralSums) {
  testing::PlayedFabric fabric;
  OnRanks(17, [&](int number, std::unique_ptr<Communicator> host) {
    Rank rank(fabric, number);
    DeviceCommOptions options = rank.Options();
    options.one_shot_bytes_max = 4096;
    options.scratch_bytes = 200'000;
    const auto comm = *DeviceCommunicator::Make(std::move(host), options);
    testing::ContractChecker check(*comm, rank.backend.get());
    for (const int64_t count : {1, 1000, 17'000}) {
      check.AllReduceInRankOrder(count);
      check.RowsInRankOrder(count, 1, false);
    }
    for (const auto& line : check.TakeBroken()) ADD_FAILURE() << line;
  });
}

TEST(DeviceComm, TermsLieWhereTheyLayWhenAStepRestarts) {
  testing::PlayedFabric fabric;
  OnRanks(2, [&](int number, std::unique_ptr<Communicator> host) {
    Rank rank(fabric, number);
    const auto comm = *DeviceCommunicator::Make(std::move(host), rank.Options());
    const auto step = [&] {
      comm->Restart();
      std::vector<const float*> at;
      float first = 1.0f, second = 2.0f;
      const CommHandle one = comm->AllReduceRows(&first, 1, 1);
      const CommHandle two = comm->AllReduceRows(&second, 1, 1);
      for (const CommHandle handle : {one, two}) {
        const SumRows rows = comm->NextRows(handle);
        at.insert(at.end(), rows.terms.begin(), rows.terms.end());
        EXPECT_TRUE(comm->NextRows(handle).empty());
      }
      return at;
    };
    const auto before = step();
    EXPECT_EQ(before.size(), 4u);
    EXPECT_NE(before[0], before[2]);
    EXPECT_EQ(step(), before);
  });
}

// Of four ranks each sends its values to three others in one shot; in two, quarters of values and
// of sums.
TEST(DeviceComm, LargeSumsTravelInSlices) {
  testing::PlayedFabric fabric;
  OnRanks(4, [&](int number, std::unique_ptr<Communicator> host) {
    Rank rank(fabric, number);
    DeviceCommOptions options = rank.Options();
    options.one_shot_bytes_max = 400;
    const auto comm = *DeviceCommunicator::Make(std::move(host), options);
    std::vector<float> values(1200);
    for (const auto& [count, bytes] : {std::pair(100, 1200u), {1200, 7200u}, {1199, 14'388u}}) {
      comm->Wait(comm->AllReduceSum(values.data(), count));
      EXPECT_EQ(comm->TakeStats().bytes_sent, bytes) << count;
    }
  });
}

// A send that nobody waits for goes out at Poll; that a receive alone does at its wait.
TEST(DeviceComm, APollBeginsWhatWasSent) {
  testing::PlayedFabric fabric;
  OnRanks(2, [&](int number, std::unique_ptr<Communicator> host) {
    Rank rank(fabric, number);
    const auto comm = *DeviceCommunicator::Make(std::move(host), rank.Options());
    float value = 7.0f * static_cast<float>(1 - number);
    if (number == 0) {
      comm->Send(&value, sizeof(value), 1);
      comm->Poll();
    } else {
      comm->Wait(comm->Recv(&value, sizeof(value), 0));
      EXPECT_EQ(value, 7.0f);
    }
    const CommStats stats = comm->TakeStats();
    EXPECT_EQ(stats.bytes_sent, number == 0 ? sizeof(value) : 0);
    EXPECT_EQ(stats.exposed_seconds, 0.125);  // the played link's
    EXPECT_EQ(stats.hidden_seconds, 0.125);
  });
}

// What rank `number` is told when the ranks are changed by `change` before they connect.
template <typename Change>
std::vector<std::string> ErrorsOf(int ranks, Change change) {
  testing::PlayedFabric fabric;
  std::vector<std::string> errors(ranks);
  OnRanks(ranks, [&](int number, std::unique_ptr<Communicator> host) {
    Rank rank(fabric, number);
    change(number, rank, fabric);
    const auto wire = NcclWire::Make(*host, rank.wire);
    if (!wire.ok()) errors[number] = wire.error().message;
  });
  return errors;
}

TEST(NcclWire, RanksOfAnotherNcclAreNamed) {
  const auto errors = ErrorsOf(3, [](int number, Rank& rank, testing::PlayedFabric& fabric) {
    if (number != 2) return;
    rank.wire.library = fabric.Library({}, 22703);
  });
  for (const auto& error : errors) {
    EXPECT_EQ(error,
              "rank 2 on host host2, device 2, has NCCL 2.27.3, rank 0 on host host0, device 0, "
              "has NCCL 2.28.9: install the same libnccl.so.2 on every host");
  }
}

TEST(NcclWire, RanksOfAnotherRuntimeAreNamed) {
  const auto errors = ErrorsOf(2, [](int number, Rank& rank, testing::PlayedFabric&) {
    if (number == 1) rank.wire.card.runtime_version = 12080;
  });
  for (const auto& error : errors) {
    EXPECT_THAT(error, HasSubstr("rank 1 on host host1, device 1, has CUDA runtime 12.8, rank 0 on "
                                 "host host0, device 0, has CUDA runtime 13.0: "));
  }
}

TEST(NcclWire, TwoRanksOnOneDeviceAreNamedUnlessNcclTakesThemForTwoHosts) {
  const auto share = [](bool apart) {
    return ErrorsOf(3, [&](int number, Rank& rank, testing::PlayedFabric&) {
      if (number == 0) return;
      rank.wire.card = {.name = "device 0 (A)", .uuid = {9}, .runtime_version = 13000};
      if (apart) rank.wire.host_id = StrCat("id", number);
    });
  };
  for (const auto& error : share(false)) {
    EXPECT_THAT(error, HasSubstr("rank 2 on host host2 computes on device 0 (A), as rank 1 on host "
                                 "host1 does, and NCCL joins one rank a device: "));
  }
  for (const auto& error : share(true)) EXPECT_EQ(error, "");
}

// The others have come; this one stays away between the invitation and NCCL.
class AbsentNccl final : public NcclLibrary {
 public:
  int Version() override { return 22809; }
  Result<NcclId> NewId() override { return InternalError("not asked"); }
  NcclOutcome Init(const NcclId&, int, int, NcclComm*) override {
    return {NcclOutcome::kFailed, "no device"};
  }
  NcclOutcome State(NcclComm) override { return {}; }
  NcclOutcome AllGather(NcclComm, const void*, void*, size_t, void*) override { return {}; }
  NcclOutcome Send(NcclComm, const void*, size_t, int, void*) override { return {}; }
  NcclOutcome Recv(NcclComm, void*, size_t, int, void*) override { return {}; }
  NcclOutcome GroupStart() override { return {}; }
  NcclOutcome GroupEnd() override { return {}; }
};

TEST(NcclWire, WhoHasNotJoinedIsNamedWithinTheDeadline) {
  const auto begin = std::chrono::steady_clock::now();
  const auto errors = ErrorsOf(3, [](int number, Rank& rank, testing::PlayedFabric&) {
    rank.wire.join_ms = 200;
    if (number == 1) rank.wire.interface = "eth7";
    if (number != 2) return;
    rank.wire.library = std::make_unique<AbsentNccl>();
  });
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
  EXPECT_THAT(
      errors[0],
      AllOf(HasSubstr("rank 0 of the group on host host0, device 0: NCCL, joining the "
                      "group: not complete after 200 ms, waiting for rank 2 on host host2, device "
                      "2; "),
            HasSubstr("the interface was chosen by NCCL: set group.interface")));
  EXPECT_THAT(errors[1], AllOf(HasSubstr("waiting for rank 2 on host host2, device 2; "),
                               HasSubstr("NCCL_SOCKET_IFNAME is eth7")));
  EXPECT_THAT(errors[2], HasSubstr("joining the group: no device"));
}

// An NCCL whose operations are never enqueued.
class StuckNccl final : public NcclLibrary {
 public:
  int Version() override { return 22809; }
  Result<NcclId> NewId() override { return NcclId{}; }
  NcclOutcome Init(const NcclId&, int, int, NcclComm* comm) override {
    *comm = this;
    return {};
  }
  NcclOutcome State(NcclComm) override { return kStuck; }
  NcclOutcome AllGather(NcclComm, const void*, void*, size_t, void*) override { return kStuck; }
  NcclOutcome Send(NcclComm, const void*, size_t, int, void*) override { return kStuck; }
  NcclOutcome Recv(NcclComm, void*, size_t, int, void*) override { return kStuck; }
  NcclOutcome GroupStart() override { return {}; }
  NcclOutcome GroupEnd() override { return kStuck; }

 private:
  const NcclOutcome kStuck = {NcclOutcome::kInProgress, ""};
};

TEST(NcclWire, AnOperationThatIsNotEnqueuedNamesWhomItMayWaitFor) {
  testing::PlayedFabric fabric;
  OnRanks(3, [&](int number, std::unique_ptr<Communicator> host) {
    Rank rank(fabric, number);
    rank.wire.library = std::make_unique<StuckNccl>();
    rank.wire.wait_ms = 20;
    const auto wire = *NcclWire::Make(*host, rank.wire);
    if (number != 0) return;
    char bytes[3] = {};
    EXPECT_EQ(
        wire->AllGather(bytes, bytes, 1, nullptr).error().message,
        "rank 0 of the group on host host0, device 0: NCCL, an all-gather: not enqueued after "
        "20 ms, it may wait for rank 1 on host host1, device 1, rank 2 on host host2, device "
        "2: see what its log says last, and NCCL with NCCL_DEBUG=WARN");
    const OutgoingMessage send = {bytes, 1, 2};
    EXPECT_THAT(
        wire->Pass({&send, 1}, {}, nullptr).error().message,
        HasSubstr("NCCL, messages: not enqueued after 20 ms, it may wait for rank 2 on host "
                  "host2, device 2: "));
  });
}

TEST(WireWatch, SaysWhomADeviceMayWaitForWhileTheHostWaits) {
  WireWatch watch;
  EXPECT_TRUE(watch.Check(false).ok());
  EXPECT_TRUE(watch.long_wait().Get().ranks.empty()) << "it has no wires";
  watch.Connects({2, 3});
  EXPECT_TRUE(watch.Check(false).ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  EXPECT_TRUE(watch.Check(false).ok());
  EXPECT_EQ(watch.long_wait().Get().ranks, (std::vector<int>{2, 3}));
  EXPECT_GE(watch.long_wait().Get().waited.count(), 2);
  EXPECT_TRUE(watch.Check(true).ok());
  EXPECT_TRUE(watch.long_wait().Get().ranks.empty());
}

TEST(NcclWire, AnErrorUnderWayIsFoundByTheWatch) {
  testing::PlayedFabric fabric;
  auto endpoints = MakeLocalCommunicators(1);
  Rank rank(fabric, 0);
  {
    const auto wire = *NcclWire::Make(*endpoints[0], rank.wire);
    EXPECT_TRUE(rank.wire.watch->Check().ok());
    fabric.Fail("remote process exited");
    const Status found = rank.wire.watch->Check();
    ASSERT_FALSE(found.ok());
    EXPECT_EQ(found.error().message,
              "rank 0 of the group on host host0, device 0: NCCL, an operation under way: remote "
              "process exited");
    EXPECT_EQ(found.error().host, "host0");
  }
  EXPECT_TRUE(rank.wire.watch->Check().ok());
}

TEST(NcclLibrary, IsThereOrSaysWhatToDo) {
  const auto library = MakeNcclLibrary();
  if (library.ok()) {
    EXPECT_GE((*library)->Version(), 21801);
  } else {
    EXPECT_THAT(library.error().message, HasSubstr("install"));
  }
}

TEST(NcclLibrary, VersionsAreReadAsNcclWritesThem) {
  EXPECT_EQ(NcclVersionText(22809), "2.28.9");
  EXPECT_EQ(NcclVersionText(2804), "2.8.4");
}

}  // namespace
}  // namespace echelon
