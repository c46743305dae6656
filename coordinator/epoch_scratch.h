#pragma once
// EpochScratch: the folders in which a local launcher and its ranks keep sockets and shared memory.
// Open MPI removes its own only when it ends in peace; with folders of our own, what a killed
// mpirun or a killed coordinator left is found by its name and removed. One thread.
//
// Whose folder it is, a lock on the folder says (flock: it goes with its process, however that
// ends). A process id would not do: containers that share /tmp or /dev/shm do not see each other's.

#include <string>

namespace echelon {

// One folder in `parent`, locked while the object lives, and removed with it. Where the file system
// has no locks, nobody else can lock it and remove it either.
class LockedFolder {
 public:
  // First removes what nobody has locked.
  LockedFolder(const std::string& parent, const std::string& marker);
  ~LockedFolder();
  LockedFolder(const LockedFolder&) = delete;
  LockedFolder& operator=(const LockedFolder&) = delete;

  const std::string& path() const { return path_; }  // "" where it could not be made

 private:
  std::string path_;
  int lock_ = -1;  // an open file
};

class EpochScratch {
 public:
  // Folders named after `marker` ("<pid>.<start>.<epoch>"); what dead coordinators left is removed.
  explicit EpochScratch(const std::string& marker);

  const std::string& sessions() const { return sessions_.path(); }
  const std::string& shared_memory() const { return shared_memory_.path(); }

 private:
  LockedFolder sessions_, shared_memory_;
};

}  // namespace echelon
