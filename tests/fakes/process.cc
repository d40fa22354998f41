#include "tests/fakes/process.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "tests/fakes/require.h"
#include "tests/fakes/vhost_socket.h"

namespace everport::fakes {
namespace {

// An abstract datagram socket; its name, as NOTIFY_SOCKET has it, begins with '@'.
UniqueFd MakeNotifySocket(std::string* name) {
  static std::atomic<unsigned> count{0};
  *name = absl::StrCat("@everport-test-", ::getpid(), "-", count.fetch_add(1));
  UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  FAKES_REQUIRE(fd.valid());
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, name->data(), name->size());
  address.sun_path[0] = '\0';
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name->size());
  FAKES_REQUIRE(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length) == 0);
  return fd;
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& s : strings) pointers.push_back(s.data());
  pointers.push_back(nullptr);
  return pointers;
}

// The CPUs that we were started with: what a program gets, also when a test has pinned itself since.
const cpu_set_t kStartCpus = [] {
  cpu_set_t cpus;
  FAKES_REQUIRE(::sched_getaffinity(0, sizeof cpus, &cpus) == 0);
  return cpus;
}();

size_t KilobytesField(const std::string& path, std::string_view field) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(field)) continue;
    std::istringstream rest(line.substr(field.size()));
    size_t kilobytes = 0;
    rest >> kilobytes;
    return kilobytes * 1024;
  }
  return 0;
}

}  // namespace

Process::Process(std::string program, Options options) : program_(std::move(program)) {
  notify_ = MakeNotifySocket(&notify_path_);
  int ends[2];
  FAKES_REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  UniqueFd output(ends[0]), theirs(ends[1]);

  std::vector<std::string> arguments = {program_};
  arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());
  std::vector<std::string> environment = options.environment;
  environment.push_back(absl::StrCat("NOTIFY_SOCKET=", notify_path_));
  for (char** entry = ::environ; *entry != nullptr; ++entry) {
    if (!std::string_view(*entry).starts_with("NOTIFY_SOCKET=") &&
        !std::string_view(*entry).starts_with("JOURNAL_STREAM="))
      environment.push_back(*entry);
  }
  std::vector<char*> argv = Pointers(arguments), envp = Pointers(environment);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  FAKES_REQUIRE(pid_ >= 0);
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);
    ::sched_setaffinity(0, sizeof kStartCpus, &kStartCpus);
    ::dup2(theirs.get(), STDOUT_FILENO);
    ::dup2(theirs.get(), STDERR_FILENO);
    ::execve(argv[0], argv.data(), envp.data());
    ::_exit(127);
  }
  pidfd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
  FAKES_REQUIRE(pidfd_.valid());
  theirs.reset();
  const bool echo = options.echo || std::getenv("FAKES_ECHO") != nullptr;
  reader_ = std::thread([this, echo, fd = output.release()] { ReadOutput(UniqueFd(fd), echo); });
}

Process::~Process() {
  Kill();
  reader_.join();
  // A sanitizer's finding fails the test, whatever has become of the program that it was in.
  for (const char* word : {"ThreadSanitizer", "AddressSanitizer", "LeakSanitizer", ": runtime error: "}) {
    if (log_.find(word) == std::string::npos) continue;
    std::fprintf(stderr, "a sanitizer has found something in %s:\n%s\n", program_.c_str(), log_.c_str());
    std::abort();
  }
}

void Process::ReadOutput(UniqueFd pipe, bool echo) {
  char buffer[4096];
  for (;;) {
    const ssize_t n = ::read(pipe.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n > 0 && echo) (void)!::write(STDERR_FILENO, buffer, static_cast<size_t>(n));
    const std::lock_guard lock(mutex_);
    if (n > 0) log_.append(buffer, static_cast<size_t>(n));
    if (n <= 0) log_ended_ = true;
    changed_.notify_all();
    if (n <= 0) return;
  }
}

bool Process::WaitReady(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  for (;;) {
    pollfd fds[2] = {{notify_.get(), POLLIN, 0}, {pidfd_.get(), POLLIN, 0}};
    const auto left = absl::ToInt64Milliseconds(deadline - absl::Now());
    if (left <= 0 || ::poll(fds, 2, static_cast<int>(left)) < 0) return false;
    if (fds[0].revents & POLLIN) {
      char text[4096];
      const ssize_t n = ::recv(notify_.get(), text, sizeof text, 0);
      if (n > 0 && std::string_view(text, static_cast<size_t>(n)).find("READY=1") != std::string_view::npos)
        return true;
    } else if (fds[1].revents & POLLIN) {
      Reap(true);
      return false;
    }
  }
}

bool Process::WaitLog(std::string_view text, absl::Duration timeout, size_t from) {
  std::unique_lock lock(mutex_);
  auto found = [&] { return log_.find(text, from) != std::string::npos; };
  changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout), [&] { return found() || log_ended_; });
  return found();
}

std::string Process::log() const {
  const std::lock_guard lock(mutex_);
  return log_;
}

bool Process::Reap(bool wait) {
  if (reaped_) return true;
  reaped_ = ::waitpid(pid_, &status_, wait ? 0 : WNOHANG) == pid_;
  if (reaped_) {  // its last words are in the pipe, which ends with them: our programs start no others
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return log_ended_; });
  }
  return reaped_;
}

void Process::Signal(int number) {
  if (!reaped_) ::kill(pid_, number);
}

void Process::Kill() {
  Signal(SIGKILL);
  Reap(true);
}

int Process::Terminate(absl::Duration timeout) {
  Signal(SIGTERM);
  if (!reaped_ && !WaitFd(pidfd_.get(), POLLIN, timeout)) {
    Kill();
    return -1;
  }
  Reap(true);
  return status_;
}

bool Process::running() {
  return !Reap(false);
}

std::vector<std::string> Process::fds() const {
  std::vector<std::string> targets;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(absl::StrCat("/proc/", pid_, "/fd"), error)) {
    std::error_code gone;
    targets.push_back(std::filesystem::read_symlink(entry.path(), gone).string());
  }
  std::sort(targets.begin(), targets.end());
  return targets;
}

std::vector<UniqueFd> Process::OpenFiles(std::string_view containing) const {
  std::vector<UniqueFd> files;
  for (const auto& entry : std::filesystem::directory_iterator(absl::StrCat("/proc/", pid_, "/fd"))) {
    std::error_code gone;
    if (std::filesystem::read_symlink(entry.path(), gone).string().find(containing) == std::string::npos) continue;
    files.emplace_back(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
  }
  return files;
}

size_t Process::fd_count() const {
  return fds().size();
}

size_t Process::map_count(std::string_view containing) const {
  std::ifstream file(absl::StrCat("/proc/", pid_, "/maps"));
  size_t count = 0;
  for (std::string line; std::getline(file, line);) count += line.find(containing) != std::string::npos;
  return count;
}

size_t Process::rss_bytes() const {
  return KilobytesField(absl::StrCat("/proc/", pid_, "/status"), "VmRSS:");
}
size_t Process::pss_bytes() const {
  return KilobytesField(absl::StrCat("/proc/", pid_, "/smaps_rollup"), "Pss:");
}

size_t Process::thread_count() const {
  const std::filesystem::directory_iterator tasks(absl::StrCat("/proc/", pid_, "/task"));
  return static_cast<size_t>(std::distance(begin(tasks), end(tasks)));
}

double Process::cpu_seconds() const {
  std::ifstream file(absl::StrCat("/proc/", pid_, "/stat"));
  std::string line;
  std::getline(file, line);
  // utime and stime are fields 14 and 15, counted from after the name in parentheses (field 2).
  const std::vector<std::string> fields = absl::StrSplit(line.substr(line.rfind(')') + 2), ' ');
  int64_t user = 0, system = 0;
  if (fields.size() < 13 || !absl::SimpleAtoi(fields[11], &user) || !absl::SimpleAtoi(fields[12], &system)) return 0;
  return static_cast<double>(user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

}  // namespace everport::fakes
