#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "backend/base/unique_fd.h"

namespace everport::fakes {

// A program under test: started with a NOTIFY_SOCKET of its own, its stderr (and stdout) kept, killed at the end or
// when the test program dies. Methods from the starting thread only.
class Process {
 public:
  struct Options {
    std::vector<std::string> arguments = {};    // without argv[0]
    std::vector<std::string> environment = {};  // "NAME=value", added to ours
    bool echo = false;                          // stderr also to ours; so does the environment variable FAKES_ECHO
  };

  Process(std::string program, Options options);  // starts it; ends the test program if it cannot be started
  ~Process();                                     // SIGKILL, if still there
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // READY=1 (sd_notify). False: not by then, or the process ended.
  bool WaitReady(absl::Duration timeout);
  // Waits until its output holds `text`, from byte `from` on. False: not by then, or its output ended without it.
  bool WaitLog(std::string_view text, absl::Duration timeout, size_t from = 0);
  std::string log() const;

  void Signal(int number);
  void Kill();  // SIGKILL, and waits
  // SIGTERM, and waits; the exit status as waitpid gives it, or -1 if it had to be killed at the timeout.
  int Terminate(absl::Duration timeout);
  bool running();
  // Of one that has ended (running() false, Kill, Terminate): waitpid's status.
  int exit_status() const { return status_; }

  pid_t pid() const { return pid_; }
  size_t fd_count() const;
  std::vector<std::string> fds() const;  // what /proc/PID/fd points to, sorted: for a message when a count is off
  std::vector<UniqueFd> OpenFiles(std::string_view containing) const;  // its files of such a name, opened for reading
  size_t map_count(std::string_view containing = "") const;            // lines of /proc/PID/maps that hold the text
  size_t rss_bytes() const;                                            // VmRSS
  size_t pss_bytes() const;                                            // smaps_rollup's Pss
  double cpu_seconds() const;                                          // user and system, all threads
  size_t thread_count() const;

 private:
  void ReadOutput(UniqueFd pipe, bool echo);
  bool Reap(bool wait);

  std::string program_;
  pid_t pid_ = -1;
  bool reaped_ = false;
  int status_ = 0;
  UniqueFd notify_, pidfd_;
  std::string notify_path_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::string log_;         // under mutex_
  bool log_ended_ = false;  // under mutex_
  std::thread reader_;
};

}  // namespace everport::fakes
