#include "coordinator/group_processes.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string_view>

#include "common/check.h"
#include "common/strings.h"

extern char** environ;

namespace echelon {

namespace {

int OpenPidfd(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

std::string EnvironmentOf(const std::string& pid) {
  std::ifstream file("/proc/" + pid + "/environ", std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

bool Bears(std::string_view environment, const std::string& marker) {
  const std::string entry = StrCat(kMarkerVariable, "=", marker);
  for (const std::string& variable : Split(environment, '\0')) {
    if (variable == entry) return true;
  }
  return false;
}

// Processes alive with the marker. A zombie's environment reads as empty, so it is not among them.
std::vector<pid_t> ProcessesWith(const std::string& marker) {
  std::vector<pid_t> found;
  DIR* proc = opendir("/proc");
  if (!proc) return found;
  while (const dirent* entry = readdir(proc)) {
    const pid_t pid = static_cast<pid_t>(std::strtol(entry->d_name, nullptr, 10));
    if (pid > 1 && Bears(EnvironmentOf(entry->d_name), marker)) found.push_back(pid);
  }
  closedir(proc);
  return found;
}

std::string DescribeExit(const std::string& program, int status) {
  if (WIFSIGNALED(status)) return StrCat(program, " was killed by signal ", WTERMSIG(status));
  return StrCat(program, " ended with status ", WEXITSTATUS(status));
}

// Environment of the launcher: ours, with the command's variables put in place.
std::vector<std::string> MergedEnvironment(const LaunchCommand& command) {
  std::vector<std::string> merged;
  for (char** variable = environ; *variable; ++variable) {
    const std::string_view text = *variable;
    bool replaced = false;
    for (const auto& [name, value] : command.environment) {
      replaced = replaced || text.rfind(name + "=", 0) == 0;
    }
    if (!replaced) merged.emplace_back(text);
  }
  for (const auto& [name, value] : command.environment) merged.push_back(name + "=" + value);
  return merged;
}

std::vector<char*> Pointers(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// In the child: only calls that are safe after fork. Reports errno through `report`.
[[noreturn]] void BecomeLauncher(char* const* words, char* const* environment, pid_t parent,
                                 int report) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int null = open("/dev/null", O_RDONLY);
  if (null >= 0) dup2(null, 0);
  dup2(2, 1);  // workers' output is log: our stdout may be someone's JSON
  if (getppid() == parent) execvpe(words[0], words, environment);
  const int error = errno;
  (void)!write(report, &error, sizeof(error));
  _exit(127);
}

class LinuxGroupProcesses final : public GroupProcesses {
 public:
  LinuxGroupProcesses() { prctl(PR_SET_CHILD_SUBREAPER, 1); }
  ~LinuxGroupProcesses() override { ForgetRanks(); }

  Status Launch(const LaunchCommand& command, const std::string& marker) override;
  void Track(int rank, uint64_t pid) override;
  std::vector<int> DeadRanks() override;
  std::optional<std::string> LauncherExit() override;
  void Signal(int signal) override;
  bool Gone() override;

 private:
  void Reap();
  void ForgetRanks();

  std::string program_;
  std::string marker_;
  pid_t launcher_ = -1;  // -1: none, or reaped
  pid_t process_group_ = -1;
  std::optional<std::string> exit_;
  std::map<int, int> rank_pidfds_;
};

Status LinuxGroupProcesses::Launch(const LaunchCommand& command, const std::string& marker) {
  CHECK_MSG(launcher_ < 0, "a launcher is still running");
  ForgetRanks();
  marker_ = marker;
  exit_.reset();
  process_group_ = -1;
  if (command.words.empty()) return {};  // external
  program_ = command.words[0];
  const std::vector<std::string> environment = MergedEnvironment(command);
  const std::vector<char*> words = Pointers(command.words);
  const std::vector<char*> variables = Pointers(environment);
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) return InternalError("pipe2 failed: out of file descriptors?");
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child == 0) BecomeLauncher(words.data(), variables.data(), parent, report[1]);
  close(report[1]);
  int error = 0;
  const bool failed = child > 0 && read(report[0], &error, sizeof(error)) == sizeof(error);
  close(report[0]);
  if (child < 0) return InternalError("fork failed: out of processes or memory");
  if (failed) {
    waitpid(child, nullptr, 0);
    return NotFound(StrCat("cannot run ", program_, ": ", std::strerror(error),
                           "; is it installed and in PATH?"));
  }
  launcher_ = process_group_ = child;
  return {};
}

void LinuxGroupProcesses::Track(int rank, uint64_t pid) {
  const int fd = OpenPidfd(static_cast<pid_t>(pid));
  if (fd < 0) return;
  // Looked at after the pidfd is open: what bears the marker now is what the pidfd names.
  if (!Bears(EnvironmentOf(std::to_string(pid)), marker_)) {
    close(fd);
    return;
  }
  const auto [slot, fresh] = rank_pidfds_.emplace(rank, fd);
  if (!fresh) close(fd);
}

std::vector<int> LinuxGroupProcesses::DeadRanks() {
  std::vector<int> dead;
  for (const auto& [rank, fd] : rank_pidfds_) {
    pollfd item{fd, POLLIN, 0};
    if (poll(&item, 1, 0) == 1) dead.push_back(rank);
  }
  return dead;
}

void LinuxGroupProcesses::Reap() {
  int status = 0;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    if (pid != launcher_) continue;
    exit_ = DescribeExit(program_, status);
    launcher_ = -1;
  }
}

std::optional<std::string> LinuxGroupProcesses::LauncherExit() {
  Reap();
  return exit_;
}

void LinuxGroupProcesses::Signal(int signal) {
  Reap();
  // Once the leader is reaped its number may be given out again.
  if (launcher_ > 0) kill(-process_group_, signal);
  if (signal != SIGKILL || marker_.empty()) return;
  for (const pid_t pid : ProcessesWith(marker_)) kill(pid, SIGKILL);
}

bool LinuxGroupProcesses::Gone() {
  Reap();
  return launcher_ < 0 && (marker_.empty() || ProcessesWith(marker_).empty());
}

void LinuxGroupProcesses::ForgetRanks() {
  for (const auto& [rank, fd] : rank_pidfds_) close(fd);
  rank_pidfds_.clear();
}

}  // namespace

std::unique_ptr<GroupProcesses> MakeGroupProcesses() {
  return std::make_unique<LinuxGroupProcesses>();
}

}  // namespace echelon
