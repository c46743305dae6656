// Which communicator a group's ranks get, all of them the same.

#include "worker/comm/step_comm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <typeinfo>
#include <vector>

#include "common/strings.h"
#include "kernels/reference/reference_backend.h"
#include "tests/support/worker/played_link.h"
#include "tests/support/worker/played_nccl.h"
#include "worker/comm/device_comm.h"
#include "worker/comm/local_comm.h"
#include "worker/comm/staged_comm.h"

namespace echelon {
namespace {

using ::testing::HasSubstr;

struct RankSetup {
  bool on_device = true, has_link = true, has_nccl = true;
  std::string kind = "auto";
  uint8_t device = 0;  // 0: one of its own
  int64_t process = 0;
  bool mps = false;
  std::string interface = {};
};

struct Outcome {
  std::string made;  // host, staged, device, or the error
  std::string note;
};

std::string KindOf(const Communicator& comm) {
  if (typeid(comm) == typeid(StagedCommunicator)) return "staged";
  return comm.on_stream() ? "device" : "host";
}

// A device whose memory happens to be readable here.
class PlayedBackend final : public reference::ReferenceBackend {
 public:
  PlayedBackend(const RankSetup& setup, int rank) : ReferenceBackend(1), setup_(setup) {
    card_.name = StrCat("device ", rank);
    card_.uuid[0] = setup.device == 0 ? static_cast<uint8_t>(100 + rank) : setup.device;
    card_.process = setup.process;
    card_.mps = setup.mps;
  }
  bool host_memory() const override { return !setup_.on_device; }
  Result<std::unique_ptr<DeviceLink>> NewLink() override {
    if (!setup_.has_link) return Unsupported("no queue beside its stream");
    return std::unique_ptr<DeviceLink>(std::make_unique<testing::PlayedLink>(card_));
  }

 private:
  const RankSetup setup_;
  DeviceCard card_;
};

std::vector<Outcome> Made(const std::vector<RankSetup>& setups) {
  testing::PlayedFabric fabric;
  const auto size = static_cast<int>(setups.size());
  auto endpoints = MakeLocalCommunicators(size);
  std::vector<Outcome> outcomes(setups.size());
  const auto run = [&](int rank) {
    PlayedBackend backend(setups[rank], rank);
    StepCommOptions options;
    options.kind = setups[rank].kind;
    options.host = StrCat("host", rank);
    options.join_ms = 20'000;
    options.nccl_interface = setups[rank].interface;
    options.note = [&](const std::string& why) { outcomes[rank].note = why; };
    options.load_nccl = [&]() -> Result<std::unique_ptr<NcclLibrary>> {
      if (!setups[rank].has_nccl) return Unsupported("NCCL is not there: install it");
      return fabric.Library();
    };
    const auto made = MakeStepCommunicator(std::move(endpoints[rank]), backend, options);
    if (!made.ok()) {
      outcomes[rank].made = made.error().message;
      return;
    }
    outcomes[rank].made = KindOf(**made);
    // It works, with whatever the others have; each adds 1.
    if (size == 1) return;
    float value = 1.0f;
    (*made)->Wait((*made)->AllReduceSum(&value, 1));
    EXPECT_EQ(value, static_cast<float>(size));
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) threads.emplace_back(run, rank);
  for (auto& thread : threads) thread.join();
  return outcomes;
}

constexpr const char* kNoPeers =
    " (rank 0 of the group on host host0: this device plays no mailboxes)";

TEST(StepComm, HostMemoryTravelsAsItDid) {
  for (const Outcome& one : Made({{.on_device = false}, {.on_device = false}})) {
    EXPECT_EQ(one.made, "host");
  }
  EXPECT_EQ(Made({{}})[0].made, "host");  // alone
}

TEST(StepComm, DevicesThatNcclJoinsExchangeInTheStream) {
  for (const char* kind : {"auto", "nccl"}) {
    for (const Outcome& one : Made({{.kind = kind}, {.kind = kind}, {.kind = kind}})) {
      EXPECT_EQ(one.made, "device");
      EXPECT_EQ(one.note,
                StrCat("devices exchange over NCCL", kind == std::string("nccl") ? "" : kNoPeers));
    }
  }
  for (const Outcome& one : Made({{.kind = "nccl", .interface = "=lo"}, {.kind = "nccl"}})) {
    EXPECT_THAT(one.note, ::testing::AnyOf("devices exchange over NCCL, interface =lo",
                                           "devices exchange over NCCL"));
  }
  for (const Outcome& one : Made({{.kind = "staged"}, {.kind = "staged"}})) {
    EXPECT_EQ(one.made, "staged");
  }
}

TEST(StepComm, AHostAndADeviceMeetInHostMemory) {
  const auto made = Made({{.on_device = false}, {}, {}});
  EXPECT_EQ(made[0].made, "host");
  EXPECT_EQ(made[1].made, "staged");
  EXPECT_EQ(made[2].made, "staged");
}

TEST(StepComm, AllStageWhereOneCannotJoinAndAreToldWhy) {
  for (const Outcome& one : Made({{}, {.has_nccl = false}, {}})) {
    EXPECT_EQ(one.made, "staged");
    EXPECT_EQ(
        one.note,
        "devices exchange through host memory (rank 0 of the group on host host0: this device "
        "plays no mailboxes; rank 1 of the group on host host1: NCCL is not there: install "
        "it)");
  }
  for (const Outcome& one : Made({{}, {.has_link = false}})) {
    EXPECT_EQ(one.made, "staged");
    EXPECT_THAT(one.note, HasSubstr("rank 1 of the group on host host1: no queue"));
  }
  for (const Outcome& one : Made({{.device = 3}, {.device = 3}})) {
    EXPECT_EQ(one.made, "staged");
    EXPECT_THAT(one.note, HasSubstr("NCCL joins one rank a device"));
  }
}

TEST(StepComm, ProcessesThatTakeTurnsOnADeviceDoNotWaitForEachOtherThere) {
  const auto turns = HasSubstr(
      "ranks 0 and 2 of the group share device 0, where processes take turns: one whose kernel");
  for (const Outcome& one : Made({{.device = 3, .process = 1}, {}, {.device = 3, .process = 2}})) {
    EXPECT_EQ(one.made, "staged");
    EXPECT_THAT(one.note, turns);
  }
  // They could try to: what stands in the way is another matter.
  const std::vector<std::vector<RankSetup>> others = {
      {{.device = 3, .process = 1, .mps = true}, {.device = 3, .process = 2, .mps = true}},
      {{.device = 3, .process = 1}, {.device = 3, .process = 1}},
      {{.device = 3, .process = 1}, {.device = 4, .process = 2}},
      {{.kind = "peer", .device = 3, .process = 1}, {.kind = "peer", .device = 3, .process = 2}}};
  for (const auto& setups : others) {
    for (const Outcome& one : Made(setups)) {
      EXPECT_THAT(one.note + one.made, HasSubstr("this device plays no mailboxes"));
    }
  }
}

TEST(StepComm, WhoAsksForNcclIsToldWhatIsMissing) {
  for (const Outcome& one : Made({{.kind = "nccl"}, {.has_nccl = false, .kind = "nccl"}})) {
    EXPECT_EQ(one.made,
              "worker.device_exchange is nccl, but rank 1 of the group on host host1: NCCL is not "
              "there: install it; or set it to auto");
  }
}

}  // namespace
}  // namespace echelon
