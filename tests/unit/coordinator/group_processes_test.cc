#include "coordinator/group_processes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "common/strings.h"

namespace echelon {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

bool Soon(const std::function<bool()>& done) {
  for (int i = 0; i < 300; ++i) {
    if (done()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

class GroupProcessesTest : public ::testing::Test {
 protected:
  ~GroupProcessesTest() override {
    processes_->Signal(SIGKILL);
    Soon([&] { return processes_->Gone(); });
    std::filesystem::remove_all(folder_);
  }
  Status Run(const std::string& script) {
    LaunchCommand command;
    command.words = {"/bin/sh", "-c", script};
    command.environment = {{kMarkerVariable, marker_}};
    return processes_->Launch(command, marker_);
  }
  // The pid that a script wrote to a file of our folder.
  pid_t PidIn(const std::string& name) {
    pid_t pid = 0;
    Soon([&] { return static_cast<bool>(std::ifstream(folder_ + "/" + name) >> pid) && pid > 0; });
    return pid;
  }
  static std::string MakeFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "processes-XXXXXX").string();
    return mkdtemp(name.data());
  }

  const std::string folder_ = MakeFolder();
  const std::string marker_ = StrCat(getpid(), ".test.", folder_.substr(folder_.size() - 6));
  std::unique_ptr<GroupProcesses> processes_ = MakeGroupProcesses();
};

TEST_F(GroupProcessesTest, TellsHowTheLauncherEnded) {
  ASSERT_TRUE(Run("exit 7").ok());
  ASSERT_TRUE(Soon([&] { return processes_->LauncherExit().has_value(); }));
  EXPECT_EQ(*processes_->LauncherExit(), "/bin/sh ended with status 7");
  EXPECT_TRUE(processes_->Gone());
  ASSERT_TRUE(Run("kill -9 $$").ok());
  ASSERT_TRUE(Soon([&] { return processes_->LauncherExit().has_value(); }));
  EXPECT_EQ(*processes_->LauncherExit(), "/bin/sh was killed by signal 9");
}

TEST_F(GroupProcessesTest, AMissingLauncherIsAnErrorAtOnce) {
  LaunchCommand command;
  command.words = {"no-such-launcher"};
  const Status launched = processes_->Launch(command, marker_);
  ASSERT_FALSE(launched.ok());
  EXPECT_THAT(launched.error().message, HasSubstr("cannot run no-such-launcher: No such file"));
  EXPECT_TRUE(processes_->Gone());
}

TEST_F(GroupProcessesTest, SignalsTheWholeProcessGroup) {
  ASSERT_TRUE(Run("sleep 100 & wait").ok());
  EXPECT_FALSE(processes_->Gone());
  EXPECT_FALSE(processes_->LauncherExit());
  processes_->Signal(SIGTERM);
  EXPECT_TRUE(Soon([&] { return processes_->Gone(); }));
}

// A rank in a session of its own, whose parent is gone, ignoring SIGTERM: only its marker shows
// whose it is.
TEST_F(GroupProcessesTest, FindsAndKillsOrphansByTheirMarker) {
  ASSERT_TRUE(Run(StrCat("setsid sh -c 'trap \"\" TERM; echo $$ > ", folder_,
                         "/orphan; while :; do sleep 0.05; done' & sleep 0.2; exit 0"))
                  .ok());
  const pid_t orphan = PidIn("orphan");
  ASSERT_GT(orphan, 0);
  ASSERT_TRUE(Soon([&] { return processes_->LauncherExit().has_value(); }));
  processes_->Signal(SIGTERM);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_FALSE(processes_->Gone());
  processes_->Signal(SIGKILL);
  EXPECT_TRUE(Soon([&] { return processes_->Gone(); }));
  // Not even a zombie, once it has been looked at again: we are its reaper.
  EXPECT_TRUE(Soon([&] { return processes_->Gone() && kill(orphan, 0) != 0; }));
}

TEST_F(GroupProcessesTest, SeesTrackedRanksDie) {
  // The rank itself writes its number: in the middle of exec() a process has no environment yet, so
  // a number written by its parent could be looked at too early, and would bear no marker.
  ASSERT_TRUE(Run(StrCat("sh -c 'echo $$ > ", folder_,
                         "/rank; while :; do sleep 0.05; done' & wait; sleep 100"))
                  .ok());
  const pid_t rank = PidIn("rank");
  ASSERT_GT(rank, 0);
  processes_->Track(3, rank);
  EXPECT_THAT(processes_->DeadRanks(), ElementsAre());
  processes_->Track(4, 1);  // init is none of ours
  kill(rank, SIGKILL);
  EXPECT_TRUE(Soon([&] { return !processes_->DeadRanks().empty(); }));
  EXPECT_THAT(processes_->DeadRanks(), ElementsAre(3));
}

TEST_F(GroupProcessesTest, AnExternalGroupHasNothingToLaunch) {
  ASSERT_TRUE(processes_->Launch({}, marker_).ok());
  EXPECT_FALSE(processes_->LauncherExit());
  EXPECT_TRUE(processes_->Gone());
}

}  // namespace
}  // namespace echelon
