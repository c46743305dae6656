// DeviceLink over the emulation: its work keeps its place among the backend's without the host's
// waiting, by itself and in graphs; what it gives other ranks; its times; the watch of a wait.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <deque>
#include <thread>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/device_link.h"
#include "tests/cuda/watched_runtime.h"
#include "tests/support/cuda_emulation/emulation.h"
#include "tests/unit/kernels/ops_kit.h"

namespace echelon {
namespace {

using cuda::WatchedRuntime;
using test::FloatBuffer;
using test::RandomFloats;
using ::testing::HasSubstr;

constexpr int64_t kCount = 300;  // more than a block of threads, not a multiple of one

class CudaLinks : public ::testing::Test {
 protected:
  CudaLinks() { Open(false); }
  void Open(bool timed) {
    link_.reset();
    backend_.reset();
    auto runtime = std::make_unique<WatchedRuntime>(cuda::MakeRuntime());
    watched_ = runtime.get();
    backend_ = std::make_unique<cuda::CudaBackend>(
        cuda::Device::Open(std::move(runtime), 0).value(), 1, timed);
    link_ = backend_->NewLink().value();
  }
  FloatBuffer Buffer(const std::vector<float>& values) {
    return FloatBuffer(*backend_, 1, kCount, values);
  }
  void Double(const FloatBuffer& x) {
    backend_->AddResidual(x.tensor(), x.tensor(), 1.0f, nullptr, 0.0f);
  }
  // to = from + 1, by code in the place of another library's kernel.
  uint64_t Increment(const FloatBuffer& from, const FloatBuffer& to) {
    const uint64_t facts[] = {reinterpret_cast<uintptr_t>(from.data()),
                              reinterpret_cast<uintptr_t>(to.data())};
    return link_->Enqueue(facts, [&, from = from.data(), to = to.data()](void* stream) {
      stream_ = stream;
      emulation::EnqueueOn(stream, [=, this] {
        std::vector<float> values(kCount);
        emulation::CopyDevice(values.data(), from, kCount * sizeof(float));
        for (float& value : values) value += 1.0f;
        emulation::CopyDevice(to, values.data(), kCount * sizeof(float));
        ++ran_;
      });
      return Status();
    });
  }

  WatchedRuntime* watched_ = nullptr;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<DeviceLink> link_;
  void* stream_ = nullptr;  // the link's
  int ran_ = 0;
};

TEST_F(CudaLinks, KeepsItsPlaceAmongOpsWithoutTheHost) {
  const auto x = Buffer(std::vector<float>(kCount, 3.0f)), y = Buffer(x.Read());
  const int awaited = watched_->streams_awaited;
  Double(x);
  const uint64_t first = Increment(x, y);
  const uint64_t second = Increment(y, y);
  EXPECT_LT(first, second);
  link_->Join(first);
  link_->Join(second);
  Double(y);
  EXPECT_EQ(ran_, 0);
  EXPECT_EQ(watched_->streams_awaited, awaited);
  backend_->Synchronize();
  EXPECT_EQ(ran_, 2);
  EXPECT_EQ(y.Read(), std::vector<float>(kCount, 16.0f));
}

TEST_F(CudaLinks, WaitsForTheBackendItself) {
  const auto x = Buffer(std::vector<float>(kCount, 3.0f)), y = Buffer(x.Read());
  Double(x);
  Increment(x, y);
  ASSERT_TRUE(watched_->Wait(stream_).ok());  // nobody waits for the backend's
  EXPECT_EQ(y.Read(), std::vector<float>(kCount, 7.0f));
}

TEST_F(CudaLinks, AMarkCoversWhatIsNotJoined) {
  const auto x = Buffer(std::vector<float>(kCount, 3.0f));
  Increment(x, x);
  const uint64_t mark = backend_->Mark();
  EXPECT_TRUE(backend_->WaitFor(mark).ok());
  EXPECT_EQ(ran_, 1);
}

TEST_F(CudaLinks, APlaceWhoseEventIsGoneIsJoinedByALaterOne) {
  const auto x = Buffer(std::vector<float>(kCount, 0.0f)), y = Buffer(x.Read());
  const uint64_t first = Increment(x, y);
  for (int i = 0; i < 300; ++i) Increment(y, y);
  link_->Join(first);
  Double(x);
  backend_->Synchronize();
  EXPECT_EQ(y.Read(), std::vector<float>(kCount, 301.0f));
}

TEST_F(CudaLinks, AGraphHoldsBothStreams) {
  const auto x = Buffer(std::vector<float>(kCount, 0.0f)), y = Buffer(x.Read());
  const auto z = Buffer(x.Read());
  const size_t captured = emulation::GraphsCaptured();
  const auto step = [&](const FloatBuffer& to) {
    Increment(x, z);  // behind it, and joined before the graph begins
    backend_->Repeat(1, [&] {
      Double(x);
      const uint64_t place = Increment(x, to);
      const float* const terms[] = {x.data(), to.data()};
      link_->Join(place);
      Double(to);
      link_->Sum(terms, kCount, to.data());  // not joined: the graph does
    });
    Double(to);
    backend_->Synchronize();
  };
  for (const float value : {1.0f, 5.0f}) {
    const std::vector<float> values(kCount, value);  // until the upload has run
    backend_->Upload(values.data(), x.data(), kCount * sizeof(float));
    step(y);
    EXPECT_EQ(emulation::GraphsCaptured(), captured + 1);
    const float doubled = 2.0f * value;
    EXPECT_EQ(y.Read(), std::vector<float>(kCount, 2.0f * (doubled + 2.0f * (doubled + 1.0f))));
    EXPECT_EQ(z.Read(), std::vector<float>(kCount, value + 1.0f));
  }
  step(z);  // other facts
  EXPECT_EQ(emulation::GraphsCaptured(), captured + 2);
}

TEST_F(CudaLinks, AddsTermsInTheirOrder) {
  for (const int count : {1, 2, 7, 16}) {
    std::deque<FloatBuffer> buffers;
    std::vector<const float*> terms;
    std::vector<float> want;
    for (int i = 0; i < count; ++i) {
      const auto values = RandomFloats(kCount, 10 + i);
      if (i == 0) want = values;
      for (int64_t k = 0; i > 0 && k < kCount; ++k) want[k] += values[k];
      terms.push_back(buffers.emplace_back(Buffer(values)).data());
    }
    link_->Join(link_->Sum(terms, kCount, buffers.back().data()));
    backend_->Synchronize();
    EXPECT_TRUE(test::SameBits(buffers.back().Read(), want)) << count;
    EXPECT_TRUE(buffers.back().GuardsIntact());
  }
}

// Rows that a link has written are split anew for the next product.
TEST_F(CudaLinks, AProductSeesWhatALinkWrote) {
  const auto matrix = test::RandomMatrix(TensorFormat::kBF16, 20, kCount, 1);
  const auto weight = test::MustPack(*backend_, {matrix.view});
  const auto x = Buffer(RandomFloats(kCount, 2)), norm = Buffer(RandomFloats(kCount, 3));
  const FloatBuffer got(*backend_, 1, 20), want(*backend_, 1, 20);
  backend_->RmsNorm(x.tensor(), norm.data(), 1e-5f, x.tensor());
  link_->Join(Increment(x, x));
  backend_->MatMul(x.tensor(), *weight, nullptr, got.tensor());
  backend_->Synchronize();
  const auto copy = Buffer(x.Read());
  backend_->MatMul(copy.tensor(), *weight, nullptr, want.tensor());
  backend_->Synchronize();
  EXPECT_TRUE(test::SameBits(got.Read(), want.Read()));
}

TEST_F(CudaLinks, AnErrorInALaunchIsTheDevices) {
  for (const bool in_graph : {false, true}) {
    Open(false);
    const auto ops = [&] {
      link_->Enqueue({}, [](void*) -> Status { return Unavailable("rank 1 is gone"); });
    };
    in_graph ? backend_->Repeat(1, ops) : ops();
    backend_->Synchronize();
    ASSERT_FALSE(backend_->Health().ok());
    EXPECT_EQ(backend_->Health().error().message, "rank 1 is gone");
  }
}

TEST_F(CudaLinks, MemoryIsSharedByAddressOrMapped) {
  const auto memory = backend_->Allocate(1000).value();
  PeerHandle handle = link_->Share(*memory);
  EXPECT_EQ(link_->card().name, "CUDA device 0 (emulated on the host)");
  const auto same = link_->Map(handle).value();
  EXPECT_EQ(same->data(), memory->data());
  EXPECT_EQ(same->bytes(), 1000u);
  EXPECT_EQ(watched_->mapped, 0);
  const pid_t other = fork();
  if (other == 0) {
    auto foreign = link_->Map(handle);
    const bool is_mapped = foreign.ok() && (*foreign)->data() != memory->data() &&
                           (*foreign)->bytes() == 1000 && watched_->mapped == 1;
    if (is_mapped) (*foreign).reset();
    _exit(is_mapped && watched_->mapped == 0 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(other, &status, 0), other);
  EXPECT_EQ(status, 0);
  ++handle.process;
  handle.for_processes = false;
  EXPECT_THAT(link_->Map(handle).error().message,
              HasSubstr("another process's device 0 (its driver shares no memory between "
                        "processes)"));
  --handle.process;
  EXPECT_TRUE(link_->Map(handle).ok());
  handle.device = 1;
  EXPECT_TRUE(link_->Map(handle).ok());
  watched_->peer_enabled = {cuda::Failure::kOther, 217, "cudaErrorPeerAccessUnsupported"};
  EXPECT_THAT(link_->Map(handle).error().message,
              HasSubstr("does not reach the memory of CUDA device 1 (cudaErrorPeer"));
}

TEST_F(CudaLinks, TimesAreOfWhatHappened) {
  Open(true);
  const auto x = Buffer(std::vector<float>(kCount, 0.0f));
  const size_t captured = emulation::GraphsCaptured();
  backend_->Repeat(1, [&] {
    const uint64_t place = link_->Enqueue({}, [](void* stream) {
      emulation::EnqueueOn(stream,
                           [] { std::this_thread::sleep_for(std::chrono::milliseconds(3)); });
      return Status();
    });
    link_->Join(place);
    Double(x);
  });
  EXPECT_EQ(emulation::GraphsCaptured(), captured);
  backend_->Synchronize();
  const LinkTimes times = link_->TakeTimes();
  EXPECT_GE(times.busy_seconds, 0.003);
  // The emulation runs it when the backend's stream comes to the join.
  EXPECT_GE(times.exposed_seconds, times.busy_seconds);
  EXPECT_EQ(link_->TakeTimes().busy_seconds, 0.0);
}

TEST_F(CudaLinks, WithoutATimedBackendThereAreNoTimes) {
  const auto x = Buffer(std::vector<float>(kCount, 0.0f));
  link_->Join(Increment(x, x));
  backend_->Synchronize();
  EXPECT_EQ(link_->TakeTimes().busy_seconds, 0.0);
}

TEST_F(CudaLinks, AWatchEndsAWaitForWhatWillNotCome) {
  int calls = 0;
  const auto watch = [&](bool) -> Status {
    if (++calls < 3) return {};
    return Unavailable("rank 1 is gone");
  };
  backend_->SetWatch(watch);
  backend_->Synchronize();  // nothing to wait for
  EXPECT_TRUE(backend_->Health().ok());
  const uint64_t mark = backend_->Mark();
  watched_->stuck = true;
  EXPECT_EQ(backend_->WaitFor(mark).error().message, "rank 1 is gone");
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(backend_->Health().error().message, "rank 1 is gone");

  // Nor does who only looks whether it has happened.
  Open(false);
  calls = 0;
  backend_->SetWatch(watch);
  const uint64_t looked_at = backend_->Mark();
  watched_->stuck = true;
  while (!backend_->Reached(looked_at)) std::this_thread::yield();
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(backend_->WaitFor(looked_at).error().message, "rank 1 is gone");

  Open(false);
  calls = 0;
  backend_->SetWatch(watch);
  watched_->stuck = true;
  backend_->Synchronize();
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(backend_->Health().error().message, "rank 1 is gone");
}

TEST_F(CudaLinks, AWatchIsToldWhenTheWaitIsOver) {
  std::vector<bool> looks;
  backend_->SetWatch([&](bool over) -> Status {
    looks.push_back(over);
    return {};
  });
  const uint64_t first = backend_->Mark();
  watched_->stuck = true;
  EXPECT_FALSE(backend_->Reached(first));
  watched_->stuck = false;
  EXPECT_TRUE(backend_->WaitFor(first).ok());
  EXPECT_THAT(looks, ::testing::ElementsAre(false, true));
  backend_->SetWatch(nullptr);  // the fixture waits when `looks` is gone
}

}  // namespace
}  // namespace echelon
