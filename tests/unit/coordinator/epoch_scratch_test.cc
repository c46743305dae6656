#include "coordinator/epoch_scratch.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace echelon {
namespace {

namespace fs = std::filesystem;

TEST(EpochScratch, RemovesItsOwnAndWhatTheDeadLeft) {
  const pid_t child = fork();
  if (child == 0) _exit(0);
  waitpid(child, nullptr, 0);  // a pid that nobody has now
  const fs::path stale =
      fs::temp_directory_path() / ("echelon-group-" + std::to_string(child) + ".1.1");
  fs::create_directories(stale / "deep");
  const fs::path alive =
      fs::temp_directory_path() / ("echelon-group-" + std::to_string(getpid()) + ".1.7");
  fs::create_directories(alive);
  fs::path mine;
  {
    const EpochScratch scratch(std::to_string(getpid()) + ".1.8");
    mine = scratch.sessions();
    EXPECT_TRUE(fs::is_directory(mine));
    EXPECT_TRUE(fs::is_directory(scratch.shared_memory()));
    std::ofstream(mine / "left") << "x";
    EXPECT_FALSE(fs::exists(stale));
    EXPECT_TRUE(fs::exists(alive));
  }
  EXPECT_FALSE(fs::exists(mine));
  fs::remove_all(alive);
}

}  // namespace
}  // namespace echelon
