// What ranks of one host exchange through: segments, streams, bells.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "common/random.h"
#include "worker/comm/bell.h"
#include "worker/comm/group_comm.h"
#include "worker/comm/shared_segment.h"
#include "worker/comm/stream.h"

namespace echelon {
namespace {

std::shared_ptr<SharedSegment> NewSegment(size_t bytes) {
  auto segment = SharedSegment::Create(bytes);
  EXPECT_TRUE(segment.ok());
  return *segment;
}

std::set<std::string> SharedMemoryFiles() {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    names.insert(entry.path().filename());
  }
  return names;
}

TEST(SharedSegment, AnotherProcessMapsTheSameMemory) {
  const auto segment = NewSegment(4096);
  const SegmentAnnouncement announcement = segment->Announce();
  const pid_t child = fork();
  if (child == 0) {
    auto attached = SharedSegment::Attach(announcement);
    if (!attached.ok()) _exit(1);
    (*attached)->data()[4095] = std::byte{42};
    _exit(0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(segment->data()[4095], std::byte{42});
}

// The same process and descriptor number in another namespace name another file.
TEST(SharedSegment, AnotherFileUnderTheSameNumberIsRefused) {
  const auto segment = NewSegment(4096);
  SegmentAnnouncement announcement = segment->Announce();
  announcement.inode += 1;
  const pid_t child = fork();
  if (child == 0) _exit(SharedSegment::Attach(announcement).ok() ? 0 : 7);
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

TEST(SharedSegment, AKilledCreatorLeavesNoFile) {
  const auto before = SharedMemoryFiles();
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    auto segment = SharedSegment::Create(1 << 20);
    if (!segment.ok() || write(ready[1], "x", 1) != 1) _exit(1);
    pause();
  }
  char created = 0;
  ASSERT_EQ(read(ready[0], &created, 1), 1);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_EQ(SharedMemoryFiles(), before);
}

// Messages of random sizes through a ring that is smaller than some of them, read by two readers,
// of whom one passes over every other message.
TEST(Stream, ReadersAtTheirOwnPaceSeeEveryByte) {
  constexpr size_t kCapacity = 1024;
  constexpr int kReaders = 2, kMessages = 400;
  const auto segment = NewSegment(StreamBytes(kReaders, kCapacity));
  const auto length = [](int m) { return uint64_t{Philox(1, {uint32_t(m), 0, 0, 0})[0] % 3000}; };
  const auto byte = [](int m, uint64_t i) { return static_cast<std::byte>(m * 31 + i * 7); };
  std::thread writer([&] {
    StreamWriter stream(segment->data(), kReaders, kCapacity);
    for (int m = 0; m < kMessages; ++m) {
      std::vector<std::byte> data(StreamSpace(length(m)));
      for (uint64_t i = 0; i < data.size(); ++i) data[i] = byte(m, i);
      for (uint64_t done = 0; done < data.size();) {
        const uint64_t room = std::min(stream.Limit() - stream.written(), data.size() - done);
        if (room == 0) std::this_thread::yield();
        stream.Write(data.data() + done, room);
        stream.Publish();
        done += room;
      }
    }
  });
  std::vector<std::thread> readers;
  int64_t wrong[kReaders] = {};
  for (int r = 0; r < kReaders; ++r) {
    readers.emplace_back([&, r] {
      StreamReader stream(segment->data(), r, kReaders, kCapacity);
      for (int m = 0; m < kMessages; ++m) {
        const uint64_t bytes = StreamSpace(length(m));
        if (r == 1 && m % 2 == 1) {
          stream.Consume(bytes);
          stream.Publish();
          continue;
        }
        for (uint64_t done = 0; done < bytes;) {
          const uint64_t n = std::min(stream.Ready(), bytes - done);
          if (n == 0) std::this_thread::yield();
          for (uint64_t i = 0; i < n; ++i) wrong[r] += stream.data()[i] != byte(m, done + i);
          stream.Consume(n);
          stream.Publish();
          done += n;
        }
      }
    });
  }
  writer.join();
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong[0], 0);
  EXPECT_EQ(wrong[1], 0);
}

// Two threads hand a number to and fro and always sleep in between: a lost wake-up would cost a
// second.
TEST(Bell, NoWakeUpIsLost) {
  constexpr uint32_t kRounds = 2000;
  Bell bells[2];
  std::atomic<uint32_t> turn{0};
  const auto play = [&](uint32_t me) {
    for (uint32_t round = 0; round < kRounds; ++round) {
      while (turn.load() % 2 != me) {
        const uint32_t armed = bells[me].Arm();
        if (turn.load() % 2 != me) bells[me].Sleep(armed, 1'000'000'000);
        bells[me].Disarm();
      }
      turn.fetch_add(1);
      bells[1 - me].Ring();
    }
  };
  const auto begin = std::chrono::steady_clock::now();
  std::thread other([&] { play(1); });
  play(0);
  other.join();
  EXPECT_EQ(turn.load(), 2 * kRounds);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(kRounds / 10));
}

TEST(GroupMembers, KnowWhoIsNear) {
  const GroupMembers members(3, {5, 5, 7, 5}, {0, 1, 0, 2});
  EXPECT_EQ(members.near, (std::vector<int>{0, 1, 3}));
  EXPECT_EQ(members.index_on_host, (std::vector<int>{0, 1, 0, 2}));
  EXPECT_EQ(members.ranks_on_host, (std::vector<int>{3, 3, 1, 3}));
  EXPECT_EQ(members.hosts, 2);
  EXPECT_EQ(members.ranks_per_host_max, 3);
}

}  // namespace
}  // namespace echelon
