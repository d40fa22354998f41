#include "backend/datapath/vhost_vdpa_errors.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace everport {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> NodesBeside(const std::string& path) {
  std::vector<std::string> nodes;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(fs::path(path).parent_path(), error)) {
    const std::string name = entry.path().filename();
    if (absl::StartsWith(name, "vhost-vdpa-")) nodes.push_back(entry.path());
  }
  std::sort(nodes.begin(), nodes.end());
  return nodes;
}

bool HasOpen(const fs::path& process, const std::string& path) {
  std::error_code error;
  for (const auto& fd : fs::directory_iterator(process / "fd", error)) {
    std::error_code gone;
    if (fs::read_symlink(fd.path(), gone) == path) return true;
  }
  return false;
}

std::string HolderOf(const std::string& path) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const std::string pid = entry.path().filename();
    if (pid.find_first_not_of("0123456789") != std::string::npos || !HasOpen(entry.path(), path)) continue;
    if (pid == std::to_string(::getpid()))
      return "this daemon itself: another port's uplink, or a device that did not answer and is still being closed";
    std::string name;
    std::getline(std::ifstream(entry.path() / "comm"), name);
    return absl::StrCat("process ", pid, " (", name, "); stop it, or name another device");
  }
  return "a process that cannot be seen from here; `fuser -v` as root tells which";
}

}  // namespace

absl::Status ExplainVhostVdpaError(const std::string& path, const absl::Status& error) {
  switch (error.code()) {
    case absl::StatusCode::kNotFound: {
      const std::vector<std::string> nodes = NodesBeside(path);
      return absl::NotFoundError(absl::StrCat(
          path, " does not exist; there ",
          nodes.empty() ? "is no vhost-vdpa device at all: load the driver (modprobe vhost_vdpa) and make one "
                          "(vdpa dev add name NAME mgmtdev DEVICE; vdpa mgmtdev show lists what can be used)"
                        : absl::StrCat(nodes.size() == 1 ? "is " : "are ", absl::StrJoin(nodes, ", "))));
    }
    case absl::StatusCode::kPermissionDenied:
      return absl::PermissionDeniedError(
          absl::StrCat("no permission to open ", path, "; let the daemon's user read and write it (udev rule, chown)"));
    case absl::StatusCode::kUnavailable:  // EBUSY
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAlreadyExists:
      if (error.message() != path) return error;  // explained already
      return absl::UnavailableError(absl::StrCat(path, " is in use by ", HolderOf(path)));
    case absl::StatusCode::kDeadlineExceeded:
      return absl::DeadlineExceededError(
          absl::StrCat(error.message(),
                       "; a VDUSE device whose process does not run? Start the process again, or remove "
                       "the device (vdpa dev del NAME)"));
    default:
      if (!absl::StartsWith(error.message(), path)) return error;
      return absl::Status(error.code(),
                          absl::StrCat(error.message(),
                                       ": the device does not answer or is broken; make it anew (vdpa dev del "
                                       "NAME, vdpa dev add …), or look at the kernel's log"));
  }
}

}  // namespace everport
