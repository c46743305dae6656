// Processes as ranks without MPI (tests/support/worker/process_group.h): the contract of all
// communicators, and what the others say and how they end when one of them does not come, dies,
// stops, fails or hangs. Real processes, real signals.

#include "tests/support/worker/process_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <functional>
#include <thread>

#include "common/strings.h"
#include "tests/support/comm_contract.h"

namespace echelon::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct Ended {
  int status = -1;  // of an exit; 128 + the signal that ended it
  std::string said;
};

std::string NewMeeting() {
  static std::atomic<int> meetings = 0;
  return StrCat("process-group-test-", getpid(), "-", ++meetings);
}

// Children of this process, each a rank; ended with the object.
class Ranks {
 public:
  using Body = std::function<void(ProcessGroup&)>;
  // `absent`: a rank that never comes.
  Ranks(ProcessGroupOptions options, const Body& body, int absent = -1)
      : pids_(static_cast<size_t>(options.size), -1), pipes_(pids_.size(), nullptr) {
    options.meeting = NewMeeting();
    for (int rank = 0; rank < options.size; ++rank) {
      options.rank = rank;
      if (rank != absent) Start(options, body);
    }
  }
  ~Ranks() {
    for (size_t rank = 0; rank < pids_.size(); ++rank) {
      if (pids_[rank] > 0) kill(pids_[rank], SIGKILL);
      if (pids_[rank] > 0) waitpid(pids_[rank], nullptr, 0);
      if (pipes_[rank] != nullptr) std::fclose(pipes_[rank]);
    }
  }
  void Signal(int rank, int signal) const { kill(pids_[static_cast<size_t>(rank)], signal); }
  // The next line that it says to stderr.
  std::string Line(int rank) {
    char line[1000] = {};
    return std::fgets(line, sizeof(line), pipes_[static_cast<size_t>(rank)]) ? line : "";
  }
  Ended End(int rank) {
    Ended ended;
    for (std::string line; !(line = Line(rank)).empty();) ended.said += line;
    int status = 0;
    waitpid(std::exchange(pids_[static_cast<size_t>(rank)], -1), &status, 0);
    ended.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return ended;
  }

 private:
  void Start(const ProcessGroupOptions& options, const Body& body) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      dup2(ends[1], STDERR_FILENO);
      close(ends[0]);
      close(ends[1]);
      auto group = ProcessGroup::Join(options);
      if (!group.ok()) {
        std::fprintf(stderr, "%s\n", group.error().message.c_str());
        _exit(kRankFailed);
      }
      body(**group);
      (*group)->Leave();
      group->reset();
      _exit(0);
    }
    close(ends[1]);
    pids_[static_cast<size_t>(options.rank)] = child;
    pipes_[static_cast<size_t>(options.rank)] = fdopen(ends[0], "r");
  }

  std::vector<pid_t> pids_;
  std::vector<FILE*> pipes_;
};

ProcessGroupOptions Impatient(int size) {
  ProcessGroupOptions options;
  options.size = size;
  options.lease_ms = 1'000;
  return options;
}

// Sums until the process ends; says so once it is at it.
void SumForEver(ProcessGroup& group) {
  std::vector<float> data(size_t{1} << 20);
  for (int round = 0;; ++round) {
    group.Begin(StrCat("sum ", round));
    group.world().Wait(group.world().AllReduceSum(data.data(), static_cast<int64_t>(data.size())));
    if (round == 2) std::fprintf(stderr, "summing\n");
  }
}

class ProcessGroupTest : public ::testing::TestWithParam<int> {};

TEST_P(ProcessGroupTest, KeepsTheContract) {
  Ranks ranks({.size = GetParam()}, [](ProcessGroup& group) {
    group.Introduce("a device");
    for (const std::string& broken : CheckCommunicatorContract(group.world())) {
      std::fprintf(stderr, "%s\n", broken.c_str());
    }
  });
  for (int rank = 0; rank < GetParam(); ++rank) {
    const Ended ended = ranks.End(rank);
    EXPECT_EQ(ended.said, "");
    EXPECT_EQ(ended.status, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, ProcessGroupTest, ::testing::Values(1, 2, 3, 5));

TEST(ProcessGroupErrors, ARankThatNeverComesIsNamedByAll) {
  for (const int absent : {0, 1}) {
    ProcessGroupOptions options = Impatient(3);
    options.join_ms = 300;
    Ranks ranks(
        options, [](ProcessGroup&) {}, absent);
    for (const int rank : {0, 1, 2}) {
      if (rank == absent) continue;
      const Ended ended = ranks.End(rank);
      EXPECT_EQ(ended.status, kRankFailed);
      EXPECT_THAT(ended.said, HasSubstr(StrCat("rank ", absent, " of 3 did not come to host")));
    }
  }
}

TEST(ProcessGroupErrors, ARankOfAnotherSizeIsRefused) {
  ProcessGroupOptions options = Impatient(2);
  options.meeting = NewMeeting();
  std::thread other([options]() mutable {
    options.rank = 1;
    options.size = 3;
    const auto joined = ProcessGroup::Join(options);
    ASSERT_FALSE(joined.ok());
    EXPECT_THAT(joined.error().message, HasSubstr("came as rank 1 of 3 to a group of 2"));
  });
  const auto joined = ProcessGroup::Join(options);
  other.join();
  ASSERT_FALSE(joined.ok());
  EXPECT_THAT(joined.error().message, HasSubstr("came as rank 1 of 3 to a group of 2"));
}

TEST(ProcessGroupErrors, AKilledRankEndsTheOthersAmidACollective) {
  for (const int victim : {0, 2}) {
    Ranks ranks(Impatient(3), [](ProcessGroup& group) {
      group.Introduce("device D");
      SumForEver(group);
    });
    for (const int rank : {0, 1, 2}) EXPECT_EQ(ranks.Line(rank), "summing\n");
    ranks.Signal(victim, SIGKILL);
    EXPECT_EQ(ranks.End(victim).status, 128 + SIGKILL);
    for (const int rank : {0, 1, 2}) {
      if (rank == victim) continue;
      const Ended ended = ranks.End(rank);
      EXPECT_EQ(ended.status, kAnotherFailed);
      EXPECT_THAT(ended.said, AllOf(HasSubstr(StrCat("rank ", victim, " on host ")),
                                    HasSubstr("device D is gone")));
    }
  }
}

TEST(ProcessGroupErrors, AStoppedRankIsGivenUp) {
  Ranks ranks(Impatient(2), SumForEver);
  for (const int rank : {0, 1}) EXPECT_EQ(ranks.Line(rank), "summing\n");
  ranks.Signal(1, SIGSTOP);
  const Ended first = ranks.End(0);
  EXPECT_EQ(first.status, kAnotherFailed);
  EXPECT_THAT(first.said, AllOf(HasSubstr("rank 1 on host "), HasSubstr("it is stopped")));
  ranks.Signal(1, SIGCONT);  // it finds itself alone
  EXPECT_EQ(ranks.End(1).status, kAnotherFailed);
}

TEST(ProcessGroupErrors, ARankThatFailsIsQuotedByAll) {
  Ranks ranks(Impatient(3), [](ProcessGroup& group) {
    if (group.world().rank() == 1) group.Fail("no memory: take another model");
    SumForEver(group);
  });
  for (const int rank : {0, 1, 2}) {
    const Ended ended = ranks.End(rank);
    EXPECT_EQ(ended.status, rank == 1 ? kRankFailed : kAnotherFailed);
    EXPECT_THAT(ended.said, AllOf(HasSubstr("rank 1 on host "), HasSubstr("no memory: take")));
  }
}

TEST(ProcessGroupErrors, AWaitThatDoesNotEndNamesWhoIsAwaited) {
  ProcessGroupOptions options = Impatient(2);
  options.step_ms = 400;
  Ranks ranks(options, [](ProcessGroup& group) {
    if (group.world().rank() == 1) pause();  // alive, and takes no part
    SumForEver(group);
  });
  const Ended first = ranks.End(0);
  EXPECT_EQ(first.status, kRankFailed);
  EXPECT_THAT(first.said, AllOf(HasSubstr("sum 0 is not over after 400 ms; it waits for rank 1")));
  EXPECT_EQ(ranks.End(1).status, kAnotherFailed);
}

}  // namespace
}  // namespace echelon::testing
