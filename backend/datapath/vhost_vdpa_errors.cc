#include "backend/datapath/vhost_vdpa_errors.h"

#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backend/host/vhost_vdpa_node.h"

namespace everport {
namespace {

namespace fs = std::filesystem;

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

absl::Status ExplainVhostVdpaOpenError(const std::string& path, int error) {
  switch (error) {
    case ENOENT:
    case ENODEV:
    case ENXIO: {
      const std::vector<std::string> nodes = VhostVdpaNodes("", fs::path(path).parent_path());
      return absl::NotFoundError(absl::StrCat(
          path, error == ENOENT ? " does not exist; there " : " has no device behind it; there ",
          nodes.empty() ? "is no vhost-vdpa device at all: load the driver (modprobe vhost_vdpa) and make one "
                          "(vdpa dev add name NAME mgmtdev DEVICE; vdpa mgmtdev show lists what can be used)"
                        : absl::StrCat(nodes.size() == 1 ? "is " : "are ", absl::StrJoin(nodes, ", "))));
    }
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(
          absl::StrCat("no permission to open ", path, "; let the daemon's user read and write it (udev rule, chown)"));
    case EBUSY:
      return absl::UnavailableError(absl::StrCat(path, " is in use by ", HolderOf(path)));
    case EIO:
      return absl::UnavailableError(
          absl::StrCat(path, ": its device cannot be reset; a VDUSE device whose process did not answer once stays ",
                       "broken: make it anew (vdpa dev del NAME, vdpa dev add …). Else see the kernel's log"));
    default:
      return absl::ErrnoToStatus(error, absl::StrCat("cannot open ", path));
  }
}

}  // namespace everport
