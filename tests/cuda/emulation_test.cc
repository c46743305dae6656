// Streams of the emulation: when their work runs, and what keeps it in order.

#include "tests/support/cuda_emulation/emulation.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/runtime.h"

namespace echelon::cuda {
namespace {

class CudaEmulation : public ::testing::Test {
 protected:
  ~CudaEmulation() override { emulation::SetEager(false); }
  Stream NewStream() {
    Stream stream = nullptr;
    EXPECT_TRUE(runtime_->NewStream(false, &stream).ok());
    return stream;
  }
  // `later` goes on behind what `first` was given.
  void Chain(Stream first, Stream later) {
    Event event = nullptr;
    runtime_->NewEvent(true, &event);
    runtime_->Record(event, first);
    runtime_->WaitFor(later, event);
    runtime_->FreeEvent(event);
  }
  void Note(Stream stream, int value) {
    emulation::EnqueueOn(stream, [this, value] { noted_.push_back(value); });
  }

  std::unique_ptr<Runtime> runtime_ = MakeRuntime();
  std::vector<int> noted_;
};

TEST_F(CudaEmulation, AStreamRunsWhatItWaitsForAndNoMore) {
  const Stream first = NewStream(), later = NewStream();
  Note(first, 1);
  Chain(first, later);
  Note(first, 3);
  Note(later, 2);
  EXPECT_TRUE(noted_.empty());
  runtime_->Wait(later);
  EXPECT_EQ(noted_, (std::vector<int>{1, 2}));
  runtime_->FreeStream(first);
  runtime_->FreeStream(later);
  EXPECT_EQ(noted_, (std::vector<int>{1, 2, 3}));
}

TEST_F(CudaEmulation, ACaptureHoldsWhatOtherStreamsDidInIt) {
  const Stream origin = NewStream(), beside = NewStream();
  runtime_->BeginCapture(origin);
  Note(origin, 1);
  Chain(origin, beside);
  Note(beside, 2);
  Chain(beside, origin);
  Note(origin, 3);
  Graph graph = nullptr;
  ASSERT_TRUE(runtime_->EndCapture(origin, &graph).ok());
  Note(beside, 9);  // the capture is over for both
  runtime_->Wait(origin);
  EXPECT_TRUE(noted_.empty());
  runtime_->LaunchGraph(graph, origin);
  runtime_->Wait(origin);
  EXPECT_EQ(noted_, (std::vector<int>{1, 2, 3}));
  runtime_->FreeGraph(graph);
  runtime_->FreeStream(origin);
  runtime_->FreeStream(beside);
}

TEST_F(CudaEmulation, ACaptureWithAStreamThatIsNotJoinedIsRefused) {
  const Stream origin = NewStream(), beside = NewStream();
  runtime_->BeginCapture(origin);
  Chain(origin, beside);
  Note(beside, 1);
  Graph graph = nullptr;
  EXPECT_EQ(runtime_->EndCapture(origin, &graph).text, "cudaErrorStreamCaptureUnjoined");
  EXPECT_EQ(graph, nullptr);
  runtime_->FreeStream(origin);
  runtime_->FreeStream(beside);
}

// Each waits inside its own stream for what the other does in its: neither host thread waits.
TEST_F(CudaEmulation, EagerStreamsMayWaitForEachOther) {
  emulation::SetEager(true);
  const Stream one = NewStream(), other = NewStream();
  std::mutex mutex;
  std::condition_variable changed;
  int there = 0;
  const auto meet = [&] {
    std::unique_lock lock(mutex);
    ++there;
    changed.notify_all();
    changed.wait(lock, [&] { return there >= 2; });
  };
  emulation::EnqueueOn(one, meet);
  emulation::EnqueueOn(other, meet);
  Chain(other, one);
  Note(one, 1);
  runtime_->Wait(one);
  EXPECT_EQ(noted_, std::vector<int>{1});
  runtime_->FreeStream(one);
  runtime_->FreeStream(other);
}

}  // namespace
}  // namespace echelon::cuda
