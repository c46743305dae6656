#pragma once
// ChildProcess: one program started by us, in a process group of its own, so that a Ctrl-C on the
// terminal reaches it only through us. Whatever it leaves behind when it ends becomes our child
// (we are its subreaper) and is ended too: nothing survives Stop() or the destructor.

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"

namespace echelon {

class ChildProcess {
 public:
  // `arguments`: argv[1] on. `stderr_path`: the file that takes the child's stdout and stderr;
  // empty: both go to our stderr (stdout stays ours alone).
  static Result<std::unique_ptr<ChildProcess>> Start(const std::string& program,
                                                     const std::vector<std::string>& arguments,
                                                     const std::string& stderr_path);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  // Exit status, or 128 + signal, once it has ended; none while it runs.
  std::optional<int> Poll();
  // TERM, then KILL after `grace_ms`; returns when the child and all it left are gone.
  int Stop(int64_t grace_ms);

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}
  void EndLeftovers();

  pid_t pid_;
  std::optional<int> status_;
};

// The folder of our own executable, where the other programs of the build lie too.
std::string ExecutableFolder();

}  // namespace echelon
