#pragma once
// EpochScratch: the folders in which a local launcher and its ranks keep sockets and shared memory.
// Open MPI removes its own only when it ends in peace; with folders of our own, what a killed
// mpirun or a killed coordinator left is found by its name and removed. One thread.

#include <string>

namespace echelon {

class EpochScratch {
 public:
  // Folders named after `marker` ("<pid>.<start>.<epoch>"); what dead coordinators left is removed.
  explicit EpochScratch(const std::string& marker);
  ~EpochScratch();  // removes both
  EpochScratch(const EpochScratch&) = delete;
  EpochScratch& operator=(const EpochScratch&) = delete;

  const std::string& sessions() const { return sessions_; }  // "" where it could not be made
  const std::string& shared_memory() const { return shared_memory_; }

 private:
  std::string sessions_, shared_memory_;
};

}  // namespace echelon
