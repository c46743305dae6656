// PeerWire over emulated devices whose streams run at once: kernels of several ranks that wait for
// each other, whatever the sizes and however late one comes, in graphs too; who does not come at
// all is named; and where one rank cannot reach another, all take another way.

#include "worker/comm/peer_wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <latch>
#include <random>
#include <thread>
#include <vector>

#include "kernels/cuda/cuda_backend.h"
#include "tests/cuda/watched_runtime.h"
#include "tests/support/comm_contract.h"
#include "tests/support/cuda_emulation/emulation.h"
#include "tests/support/worker/played_nccl.h"
#include "worker/comm/device_comm.h"
#include "worker/comm/local_comm.h"
#include "worker/comm/staged_comm.h"
#include "worker/comm/step_comm.h"

namespace echelon {
namespace {

using ::testing::AllOf;
using testing::ContractChecker;
using testing::ContractValue;
using ::testing::HasSubstr;
using testing::Held;

// A rank's thread: its device and what waits for that, its wire and what is broken.
struct Rank {
  explicit Rank(int number) : number(number) {
    auto runtime = std::make_unique<cuda::WatchedRuntime>(cuda::MakeRuntime());
    watched = runtime.get();
    device = std::make_unique<cuda::CudaBackend>(
        cuda::Device::Open(std::move(runtime), number).value(), 1);
    wire.watch = std::make_shared<WireWatch>();
    wire.host = "here";
    device->SetWatch([watch = wire.watch](bool over) { return watch->Check(over); });
  }
  std::unique_ptr<Communicator> Connect(std::unique_ptr<Communicator> host) {
    DeviceCommOptions options;
    options.backend = device.get();
    options.connect = [this](Communicator& over) -> Result<DeviceLine> {
      DeviceLine line;
      ASSIGN_OR_RETURN(line.link, device->NewLink());
      ASSIGN_OR_RETURN(line.wire, PeerWire::Make(over, *line.link, wire));
      return line;
    };
    options.one_shot_bytes_max = one_shot_bytes_max;
    options.scratch_bytes = size_t{1} << 20;
    return DeviceCommunicator::Make(std::move(host), options).value();
  }

  const int number;
  cuda::WatchedRuntime* watched = nullptr;
  std::unique_ptr<Backend> device;
  PeerWireOptions wire;
  size_t one_shot_bytes_max = size_t{64} << 10;
};

class CudaPeerWire : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { emulation::SetEager(true); }
  void TearDown() override { emulation::SetEager(false); }

  using Body = std::function<void(Rank&, Communicator&)>;
  // Runs `body` on a thread a rank. `prepare` comes before ranks connect.
  static void OnRanks(
      int size, const Body& body, const std::function<void(Rank&)>& prepare = [](Rank&) {}) {
    auto endpoints = MakeLocalCommunicators(size);
    std::vector<std::thread> threads;
    for (auto& endpoint : endpoints) {
      threads.emplace_back([&] {
        Rank rank(endpoint->rank());
        prepare(rank);
        const auto comm = rank.Connect(std::move(endpoint));
        body(rank, *comm);
        rank.device->Synchronize();
      });
    }
    for (auto& thread : threads) thread.join();
  }
  // The same with a checker, whose complaints it shows; no device may have failed.
  static void Check(int size,
                    const std::function<void(Rank&, Communicator&, ContractChecker&)>& body) {
    std::vector<std::vector<std::string>> broken(static_cast<size_t>(size));
    OnRanks(size, [&](Rank& rank, Communicator& comm) {
      ContractChecker check(comm, rank.device.get());
      body(rank, comm, check);
      rank.device->Synchronize();
      EXPECT_TRUE(rank.device->Health().ok()) << rank.device->Health().error().message;
      broken[static_cast<size_t>(rank.number)] = check.TakeBroken();
    });
    for (const auto& lines : broken) {
      for (const auto& line : lines) ADD_FAILURE() << line;
    }
  }
};

TEST_P(CudaPeerWire, KeepsTheContract) {
  std::vector<std::vector<std::string>> broken(static_cast<size_t>(GetParam()));
  OnRanks(GetParam(), [&](Rank& rank, Communicator& comm) {
    broken[static_cast<size_t>(rank.number)] =
        testing::CheckCommunicatorContract(comm, rank.device.get());
    rank.device->Synchronize();
    EXPECT_TRUE(rank.device->Health().ok());
  });
  for (const auto& lines : broken) {
    for (const auto& line : lines) ADD_FAILURE() << line;
  }
}

// Around a copy's 16 bytes, a piece, what all blocks' pieces and slots hold.
TEST_P(CudaPeerWire, CarriesAnySize) {
  constexpr size_t kPiece = size_t{16} << 10, kPieces = 16 * kPiece, kSlots = 4 * kPieces;
  Check(GetParam(), [](Rank&, Communicator&, ContractChecker& check) {
    for (const size_t around : {size_t{16}, kPiece, 2 * kPiece, kPieces, kSlots}) {
      for (const size_t bytes : {around - 1, around, around + 1}) {
        check.AllGather(bytes);
        check.MessagesInOrder(bytes);
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(cuda_ranks, CudaPeerWire, ::testing::Range(2, 5));

// Neither end at a multiple of 4 bytes, nor both at the same place within one.
TEST_F(CudaPeerWire, CarriesFromAndToAnyPlace) {
  OnRanks(2, [](Rank& rank, Communicator& comm) {
    constexpr size_t kBytes = 40'000;
    std::vector<uint8_t> values(kBytes + 16);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<uint8_t>(i * 7 + static_cast<size_t>(rank.number));
    }
    Held sent(rank.device.get(), values);
    for (const auto& [from, to] : {std::pair<size_t, size_t>{1, 0}, {0, 3}, {4, 8}, {2, 2}}) {
      Held got(rank.device.get(), std::vector<uint8_t>(kBytes + 16, 9));
      comm.Send(sent.data() + from, kBytes, 1 - rank.number);
      comm.Wait(comm.Recv(got.data() + to, kBytes, 1 - rank.number));
      std::vector<uint8_t> want(kBytes + 16, 9);
      for (size_t i = 0; i < kBytes; ++i) {
        want[to + i] = static_cast<uint8_t>((from + i) * 7 + 1 - static_cast<size_t>(rank.number));
      }
      EXPECT_EQ(got.Read(), want) << from << " " << to;
    }
  });
}

// Two of four ranks have something to send, more than the mailboxes hold, and all expect something
// of all who have: no rank may begin with a part of its messages.
TEST_F(CudaPeerWire, MessagesOfAnExchangeAreBegunTogether) {
  OnRanks(
      4,
      [](Rank& rank, Communicator& comm) {
        constexpr size_t kBytes = size_t{2} << 20;
        Held sent(rank.device.get(),
                  std::vector<uint8_t>(kBytes, static_cast<uint8_t>(1 + rank.number)));
        std::vector<Held<uint8_t>> got;
        for (int from = 0; from < 4; ++from) {
          got.emplace_back(rank.device.get(), std::vector<uint8_t>(kBytes));
        }
        const bool expects = rank.number % 2 == 0;
        CommHandle last;
        for (const int to : {0, 2}) {
          if (to != rank.number) last = comm.Send(sent.data(), kBytes, to);
        }
        for (int step = 1; step < 4 && expects; ++step) {
          const int from = (rank.number + step) % 4;
          last = comm.Recv(got[static_cast<size_t>(from)].data(), kBytes, from);
        }
        comm.Wait(last);
        rank.device->Synchronize();
        EXPECT_TRUE(rank.device->Health().ok()) << rank.device->Health().error().message;
        for (int from = 0; from < 4 && expects; ++from) {
          if (from == rank.number) continue;
          EXPECT_EQ(got[static_cast<size_t>(from)].Read(),
                    std::vector<uint8_t>(kBytes, static_cast<uint8_t>(1 + from)));
        }
      },
      [](Rank& rank) { rank.wire.wait_ms = 5'000; });
}

// More messages than one kernel has places for.
TEST_F(CudaPeerWire, CarriesManyMessagesAtOnce) {
  OnRanks(2, [](Rank& rank, Communicator& comm) {
    constexpr int kMessages = 150;
    Held sent(rank.device.get(), std::vector<int>(kMessages));
    std::vector<int> values(kMessages);
    for (int i = 0; i < kMessages; ++i) values[static_cast<size_t>(i)] = 1000 * rank.number + i;
    rank.device->Upload(values.data(), sent.data(), sent.bytes());
    Held got(rank.device.get(), std::vector<int>(kMessages));
    for (int i = 0; i < kMessages; ++i) comm.Send(sent.data() + i, sizeof(int), 1 - rank.number);
    CommHandle last;
    for (int i = 0; i < kMessages; ++i) {
      last = comm.Recv(got.data() + i, sizeof(int), 1 - rank.number);
    }
    comm.Wait(last);
    std::vector<int> want;
    for (const int value : values) want.push_back(value + 1000 - 2000 * rank.number);
    EXPECT_EQ(got.Read(), want);
  });
}

// Four sums in flight again and again, now one rank late and now another, hosts and devices.
TEST_F(CudaPeerWire, LateRanksChangeNothing) {
  constexpr int kSize = 3, kSteps = 300, kWindow = 4;
  constexpr int64_t kCount = 100;
  OnRanks(kSize, [&](Rank& rank, Communicator& comm) {
    std::mt19937 random(static_cast<unsigned>(rank.number));
    std::vector<float> values(kCount), want(kCount);
    for (int64_t i = 0; i < kCount; ++i) values[i] = ContractValue(rank.number, i);
    for (int64_t i = 0; i < kCount; ++i) {
      want[i] = ContractValue(0, i);
      for (int r = 1; r < kSize; ++r) want[i] += ContractValue(r, i);
    }
    std::vector<Held<float>> data;
    for (int k = 0; k < kWindow; ++k) data.emplace_back(rank.device.get(), values);
    Held residual(rank.device.get(), std::vector<float>(kCount));
    Held ones(rank.device.get(), std::vector<float>(kCount, 1.0f));
    Held normed(rank.device.get(), std::vector<float>(kCount));
    int wrong = 0;
    for (int step = 0; step < kSteps; ++step) {
      comm.Restart();
      CommHandle handles[kWindow];
      for (int k = 0; k < kWindow; ++k) {
        if (random() % 16 == 0) std::this_thread::sleep_for(std::chrono::microseconds(500));
        handles[k] = comm.AllReduceRows(data[k].data(), 1, kCount);
      }
      for (const CommHandle handle : handles) {
        for (SumRows sum = comm.NextRows(handle); !sum.empty(); sum = comm.NextRows(handle)) {
          rank.device->AddResidualNorm(Tensor(residual.data(), 1, kCount), sum.terms, 0.0f, nullptr,
                                       ones.data(), 1e-5f, Tensor(normed.data(), 1, kCount));
        }
      }
      if (step % 10 == 0 && residual.Read() != want) ++wrong;
    }
    EXPECT_EQ(wrong, 0);
    EXPECT_TRUE(rank.device->Health().ok());
  });
}

// A graph has the same arguments each time: what changes lies in device memory.
TEST_F(CudaPeerWire, GraphsOfSumsAreReplayed) {
  constexpr int64_t kCount = 777;
  const size_t captured = emulation::GraphsCaptured();
  OnRanks(2, [&](Rank& rank, Communicator& comm) {
    Held data(rank.device.get(), std::vector<float>(kCount));
    for (int step = 1; step <= 40; ++step) {
      const std::vector<float> values(kCount, static_cast<float>(step + rank.number));
      rank.device->Upload(values.data(), data.data(), data.bytes());
      rank.device->Repeat(1, [&] {
        comm.Restart();
        for (int k = 0; k < 3; ++k) comm.Wait(comm.AllReduceSum(data.data(), kCount));
      });
      ASSERT_EQ(data.Read(), std::vector<float>(kCount, 4.0f * static_cast<float>(2 * step + 1)));
    }
  });
  EXPECT_EQ(emulation::GraphsCaptured(), captured + 2);  // one a rank
}

// All of it at once: whole, in slices, in pieces.
TEST_F(CudaPeerWire, SumsOfAnySizeAreInRankOrder) {
  Check(3, [](Rank&, Communicator&, ContractChecker& check) {
    for (const int64_t count : {16'384, 16'386, 16'385, 99'999, 300'000}) {
      check.AllReduceInRankOrder(count);
      check.RowsInRankOrder(count / 3, 3, false);
    }
  });
}

TEST_F(CudaPeerWire, WhoDoesNotComeIsNamed) {
  std::latch told(2);
  OnRanks(
      3,
      [&](Rank& rank, Communicator& comm) {
        Held data(rank.device.get(), std::vector<float>(100));
        comm.Wait(comm.AllReduceSum(data.data(), 100));
        rank.device->Synchronize();
        ASSERT_TRUE(rank.device->Health().ok());
        if (rank.number == 1) return told.wait();  // its memory is still written
        const auto begin = std::chrono::steady_clock::now();
        for (int i = 0; i < 50; ++i) comm.Wait(comm.AllReduceSum(data.data(), 100));
        rank.device->Synchronize();
        told.count_down();
        ASSERT_FALSE(rank.device->Health().ok());
        EXPECT_THAT(rank.device->Health().error().message,
                    AllOf(HasSubstr(StrCat("rank ", rank.number,
                                           " of the group on host here, CUDA "
                                           "device ",
                                           rank.number)),
                          HasSubstr("rank 1 (host here, CUDA device 1"),
                          HasSubstr("has not sent what is due for 300 ms")));
        // Not once for each.
        EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
      },
      [](Rank& rank) { rank.wire.wait_ms = 300; });
}

// Nobody takes it: the slots fill up.
TEST_F(CudaPeerWire, WhoTakesNothingIsNamed) {
  std::latch told(1);
  OnRanks(
      2,
      [&](Rank& rank, Communicator& comm) {
        if (rank.number == 1) return told.wait();  // its memory is still written
        constexpr size_t kBytes = size_t{2} << 20;
        Held data(rank.device.get(), std::vector<uint8_t>(kBytes));
        comm.Wait(comm.Send(data.data(), kBytes, 1));
        rank.device->Synchronize();
        told.count_down();
        ASSERT_FALSE(rank.device->Health().ok());
        EXPECT_THAT(rank.device->Health().error().message,
                    HasSubstr("rank 1 (host here, CUDA device 1 (emulated on the host)) has not "
                              "taken what it was sent for 300 ms"));
      },
      [](Rank& rank) { rank.wire.wait_ms = 300; });
}

// The handle of other memory stands for an IOMMU that takes writes elsewhere.
TEST_F(CudaPeerWire, WhatDoesNotArriveIsSeenAtTheFirstMessage) {
  auto hosts = MakeLocalCommunicators(2);
  std::vector<std::thread> threads;
  for (auto& host : hosts) {
    threads.emplace_back([&] {
      Rank rank(host->rank());
      const auto link = rank.device->NewLink().value();
      const auto mail = link->NewMailboxes({rank.number, 2, 300}).value();
      const auto elsewhere = link->NewMailboxes({rank.number, 2, 300}).value();
      std::vector<PeerHandle> handles(2);
      const PeerHandle& told = rank.number == 1 ? elsewhere->handle() : mail->handle();
      host->Wait(host->AllGather(&told, handles.data(), sizeof(told)));
      ASSERT_TRUE(mail->Connect(handles).ok());
      const Status tried = mail->Try();
      // Rank 0 gets what rank 1 sent, but no word that its own was taken where it went.
      const std::string name = StrCat("CUDA device ", rank.number, " (emulated on the host)");
      if (rank.number == 1) {
        ASSERT_FALSE(tried.ok());
        EXPECT_EQ(tried.error().message,
                  StrCat(name,
                         ": the driver says that it and the device of rank 0 of the group "
                         "reach each other's memory, but a message between them does not "
                         "arrive: see the IOMMU's settings, or let ranks of this host "
                         "exchange by another way"));
      }
      int64_t done = 0, all[2];
      host->Wait(
          host->AllGather(&done, all, sizeof(done)));  // all memory outlives the last message
    });
  }
  for (auto& thread : threads) thread.join();
}

struct Choice {
  std::string kind, told, error;  // staged, or on the stream
};
// What three ranks make of `options`; `prepare` changes a rank's device, host or library.
std::vector<Choice> Chosen(const std::string& kind, testing::PlayedFabric& fabric,
                           const std::function<void(Rank&, StepCommOptions&)>& prepare) {
  auto endpoints = MakeLocalCommunicators(3);
  std::vector<Choice> choices(3);
  std::vector<std::thread> threads;
  for (auto& endpoint : endpoints) {
    threads.emplace_back([&] {
      Rank rank(endpoint->rank());
      Choice& choice = choices[static_cast<size_t>(rank.number)];
      StepCommOptions options;
      options.kind = kind;
      options.host = "here";
      options.watch = rank.wire.watch;
      options.note = [&](const std::string& how) { choice.told = how; };
      options.load_nccl = [&]() -> Result<std::unique_ptr<NcclLibrary>> {
        return fabric.Library({emulation::EnqueueOn, emulation::CopyDevice});
      };
      prepare(rank, options);
      const auto made = MakeStepCommunicator(std::move(endpoint), *rank.device, options);
      if (!made.ok()) {
        choice.error = made.error().message;
        return;
      }
      choice.kind = (*made)->on_stream() ? "stream" : "staged";
      Held value(rank.device.get(), std::vector<float>{1.0f});
      (*made)->Wait((*made)->AllReduceSum(value.data(), 1));
      EXPECT_EQ(value.Read()[0], 3.0f);
    });
  }
  for (auto& thread : threads) thread.join();
  return choices;
}
void CannotReach(Rank& rank) {
  if (rank.number == 1) rank.watched->peer_enabled = {cuda::Failure::kOther, 217, "no peer access"};
}
Result<std::unique_ptr<NcclLibrary>> NoNccl() { return Unsupported("NCCL is not there"); }

TEST_F(CudaPeerWire, IsTakenWhereAllReachAll) {
  for (const char* kind : {"auto", "peer"}) {
    testing::PlayedFabric fabric;
    for (const Choice& one : Chosen(
             kind, fabric, [](Rank&, StepCommOptions& options) { options.load_nccl = NoNccl; })) {
      EXPECT_EQ(one.kind, "stream") << one.error;
      EXPECT_EQ(one.told, "devices exchange through peer memory");
    }
  }
}

TEST_F(CudaPeerWire, ThreadsNeedNoHandlesBetweenProcesses) {
  testing::PlayedFabric fabric;
  const auto prepare = [](Rank& rank, StepCommOptions&) {
    rank.watched->shared = {cuda::Failure::kOther, 801, "cudaErrorNotSupported"};
  };
  for (const Choice& one : Chosen("peer", fabric, prepare)) EXPECT_EQ(one.error, "");
}

constexpr const char* kNotReached =
    "rank 1 of the group on host here: CUDA device 1 (emulated on the host): does not reach the "
    "memory of CUDA device 0 (no peer access): let ranks of this host exchange by another way";

TEST_F(CudaPeerWire, LeavesItToNcclWhereOneReachesNoOther) {
  testing::PlayedFabric fabric;
  const auto prepare = [](Rank& rank, StepCommOptions&) { CannotReach(rank); };
  for (const Choice& one : Chosen("auto", fabric, prepare)) {
    EXPECT_EQ(one.kind, "stream") << one.error;
    EXPECT_EQ(one.told, StrCat("devices exchange over NCCL (", kNotReached, ")"));
  }
}

TEST_F(CudaPeerWire, LeavesItToTheHostWhereNcclIsMissingToo) {
  testing::PlayedFabric fabric;
  const auto prepare = [](Rank& rank, StepCommOptions& options) {
    CannotReach(rank);
    if (rank.number == 2) options.load_nccl = NoNccl;
  };
  for (const Choice& one : Chosen("auto", fabric, prepare)) {
    EXPECT_EQ(one.kind, "staged") << one.error;
    EXPECT_EQ(one.told, StrCat("devices exchange through host memory (", kNotReached,
                               "; rank 2 of the group on host here: NCCL is not there)"));
  }
}

TEST_F(CudaPeerWire, WhoAsksForItIsToldWhatIsMissing) {
  testing::PlayedFabric fabric;
  const auto blind = [](Rank& rank, StepCommOptions&) { CannotReach(rank); };
  for (const Choice& one : Chosen("peer", fabric, blind)) {
    EXPECT_EQ(one.error,
              StrCat("worker.device_exchange is peer, but ", kNotReached, "; or set it to auto"));
  }
  const auto elsewhere = [](Rank& rank, StepCommOptions& options) {
    if (rank.number == 2) options.host = "there";
  };
  for (const Choice& one : Chosen("peer", fabric, elsewhere)) {
    EXPECT_THAT(one.error, HasSubstr("rank 2 of the group is on host there, rank 0 on host here"));
  }
}

}  // namespace
}  // namespace echelon
