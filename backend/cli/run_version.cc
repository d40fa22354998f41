#include "backend/cli/run_version.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "backend/base/unique_fd.h"

namespace everport::cli {
namespace {

constexpr std::chrono::seconds kPatience{5};
constexpr size_t kMaxOutput = 4096;

absl::StatusOr<UniqueFd> OpenTrusted(const std::string& exe) {
  UniqueFd program(::open(exe.c_str(), O_PATH | O_CLOEXEC));
  struct stat st {};
  if (!program.valid() || ::fstat(program.get(), &st) != 0) {
    return absl::NotFoundError(absl::StrCat(exe, " cannot be opened: ", std::strerror(errno)));
  }
  if (!S_ISREG(st.st_mode) || st.st_uid != 0 || (st.st_mode & (S_IWGRP | S_IWOTH))) {
    return absl::PermissionDeniedError(absl::StrCat(exe, " is not run, as others than root may write it"));
  }
  return program;
}

// Until end of file, kMaxOutput or the end of patience.
std::string ReadOutput(int fd) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  std::string output;
  while (output.size() < kMaxOutput) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    pollfd wait{fd, POLLIN, 0};
    if (left.count() <= 0 || ::poll(&wait, 1, static_cast<int>(left.count())) <= 0) break;
    char buffer[1024];
    const ssize_t got = ::read(fd, buffer, sizeof buffer);
    if (got <= 0) break;
    output.append(buffer, static_cast<size_t>(got));
  }
  return output;
}

}  // namespace

absl::StatusOr<std::string> RunVersion(const std::string& exe) {
  auto program = OpenTrusted(exe);
  if (!program.ok()) return program.status();
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return absl::ResourceExhaustedError(std::strerror(errno));
  UniqueFd reader(ends[0]), writer(ends[1]);

  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  const absl::Cleanup destroy = [&] { ::posix_spawn_file_actions_destroy(&actions); };
  ::posix_spawn_file_actions_adddup2(&actions, writer.get(), STDOUT_FILENO);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  const std::string path = absl::StrCat("/proc/self/fd/", program->get());
  char name[] = "qemu", option[] = "--version";
  char* const args[] = {name, option, nullptr};
  char* const environment[] = {nullptr};
  pid_t pid = 0;
  if (const int error = ::posix_spawn(&pid, path.c_str(), &actions, nullptr, args, environment); error != 0) {
    return absl::UnavailableError(absl::StrCat(exe, " does not start: ", std::strerror(error)));
  }
  writer.reset();
  std::string output = ReadOutput(reader.get());
  ::kill(pid, SIGKILL);  // it has ended, or has had its time
  ::waitpid(pid, nullptr, 0);
  if (output.empty()) return absl::UnavailableError(absl::StrCat(exe, " --version says nothing"));
  return output;
}

}  // namespace everport::cli
