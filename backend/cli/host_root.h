#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace everport::cli {

// The host's files below a root: "" for the real one, a folder in tests. Paths are absolute, as on the host. What
// cannot be read is not there. Any thread.
class HostRoot {
 public:
  explicit HostRoot(std::string prefix = "") : prefix_(std::move(prefix)) {}

  const std::string& prefix() const { return prefix_; }
  std::optional<std::string> Read(const std::string& path) const;
  std::optional<struct stat> Stat(const std::string& path) const;  // follows symbolic links
  bool Exists(const std::string& path) const { return Stat(path).has_value(); }
  std::string LinkName(const std::string& path) const;  // last part of where it points; empty if it is no link
  std::vector<std::string> List(const std::string& folder) const;  // names, sorted

 private:
  std::string prefix_;
};

struct Process {
  int pid = 0;
  std::vector<std::string> args;
  std::string exe;  // "/proc/PID/exe"
};

std::vector<Process> Processes(const HostRoot& root);  // those with a command line

// Credentials of a running program of this name (comm, 15 bytes), if there is one.
struct Credentials {
  unsigned uid = 0;
  std::vector<unsigned> gids;
  uint64_t capabilities = 0;  // effective ones, a bit each (linux/capability.h)
};
std::optional<Credentials> CredentialsOf(const HostRoot& root, const std::string& comm);

// Paths of unix sockets that somebody listens on (in this network namespace).
std::vector<std::string> ListeningSockets(const HostRoot& root);

}  // namespace everport::cli
