#include "coordinator/epoch_scratch.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace echelon {
namespace {

namespace fs = std::filesystem;

// The number of a process that is no more: how one of another container looks from here.
pid_t UnseenPid() {
  const pid_t child = fork();
  if (child == 0) _exit(0);
  waitpid(child, nullptr, 0);
  return child;
}

std::string Marker(pid_t pid, int epoch) {
  return std::to_string(pid) + ".1." + std::to_string(epoch);
}
fs::path Folder(const std::string& marker) {
  return fs::temp_directory_path() / ("echelon-group-" + marker);
}

// A process that holds the folders of `marker` until it is killed.
class Holder {
 public:
  explicit Holder(const std::string& marker) {
    int ready[2];
    if (pipe(ready) != 0) return;
    pid_ = fork();
    if (pid_ == 0) {
      const EpochScratch scratch(marker);
      std::ofstream(fs::path(scratch.sessions()) / "socket") << "x";
      if (write(ready[1], "r", 1) == 1) pause();
      _exit(1);
    }
    close(ready[1]);
    char byte = 0;
    EXPECT_EQ(read(ready[0], &byte, 1), 1);
    close(ready[0]);
  }
  ~Holder() { Kill(); }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
};

TEST(EpochScratch, RemovesItsOwn) {
  fs::path sessions, shared_memory;
  {
    const EpochScratch scratch(Marker(getpid(), 8));
    sessions = scratch.sessions();
    shared_memory = scratch.shared_memory();
    EXPECT_EQ(fs::status(sessions).permissions(), fs::perms::owner_all);
    EXPECT_TRUE(fs::is_directory(shared_memory));
    fs::create_directories(sessions / "deep");
    std::ofstream(shared_memory / "left") << "x";
  }
  EXPECT_FALSE(fs::exists(sessions));
  EXPECT_FALSE(fs::exists(shared_memory));
}

TEST(EpochScratch, LeavesAloneWhatIsAliveThoughItsProcessCannotBeSeen) {
  const std::string marker = Marker(UnseenPid(), 1);
  Holder holder(marker);
  const fs::path theirs = Folder(marker);
  {
    const EpochScratch scratch(Marker(getpid(), 9));
    EXPECT_TRUE(fs::exists(theirs / "socket"));
    EXPECT_TRUE(fs::is_directory(fs::path("/dev/shm") / theirs.filename()));
  }
  holder.Kill();
  const EpochScratch scratch(Marker(getpid(), 10));
  EXPECT_FALSE(fs::exists(theirs));
  EXPECT_FALSE(fs::exists(fs::path("/dev/shm") / theirs.filename()));
}

TEST(EpochScratch, AFolderThatIsThereAlreadyIsNotTaken) {
  const std::string marker = Marker(UnseenPid(), 2);
  Holder holder(marker);
  EXPECT_EQ(EpochScratch(marker).sessions(), "");
  EXPECT_TRUE(fs::exists(Folder(marker) / "socket"));
  holder.Kill();
  EXPECT_NE(EpochScratch(marker).sessions(), "");
}

}  // namespace
}  // namespace echelon
