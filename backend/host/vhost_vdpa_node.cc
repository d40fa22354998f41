#include "backend/host/vhost_vdpa_node.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace everport {
namespace {

namespace fs = std::filesystem;

std::string LinkName(const fs::path& path) {
  std::error_code error;
  return fs::read_symlink(path, error).filename().string();
}

std::string WhatToName(const std::string& root) {
  const std::vector<std::string> nodes = VhostVdpaNodes(root);
  if (nodes.empty()) return "name a /dev/vhost-vdpa-N; there is none yet: modprobe vhost_vdpa, and vdpa dev add";
  return absl::StrCat("name a vhost-vdpa device: there ", nodes.size() == 1 ? "is " : "are ",
                      absl::StrJoin(nodes, ", "), " (`vdpa dev show` lists what is behind)");
}

const char* FileType(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISREG(mode)) return "an ordinary file";
  if (S_ISBLK(mode)) return "a block device";
  return S_ISSOCK(mode) ? "a socket" : "a pipe";
}

}  // namespace

std::vector<std::string> VhostVdpaNodes(const std::string& root, const std::string& folder) {
  std::vector<std::string> nodes;
  std::error_code error;
  for (fs::directory_iterator entry(root + folder, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename();
    if (absl::StartsWith(name, "vhost-vdpa-")) nodes.push_back(absl::StrCat(folder, "/", name));
  }
  std::sort(nodes.begin(), nodes.end());
  return nodes;
}

absl::Status CheckVhostVdpaNode(const std::string& root, const std::string& node) {
  struct stat st {};
  if (::stat((root + node).c_str(), &st) != 0) {
    if (errno != ENOENT) {
      return absl::FailedPreconditionError(
          absl::StrCat(node, " cannot be looked at (", std::strerror(errno), "); ", WhatToName(root)));
    }
    const bool module = ::access((root + "/sys/bus/vdpa/drivers/vhost_vdpa").c_str(), F_OK) == 0;
    return absl::NotFoundError(absl::StrCat(node, " is missing; run: ",
                                            module ? "vdpa dev add (`vdpa mgmtdev show` lists what has devices)"
                                                   : "modprobe vhost_vdpa, and vdpa dev add"));
  }
  const auto refuse = [&](const std::string& what) {
    return absl::FailedPreconditionError(
        absl::StrCat(node, " is ", what, ", not a vhost-vdpa device; ", WhatToName(root)));
  };
  if (!S_ISCHR(st.st_mode)) return refuse(FileType(st.st_mode));
  // vhost-vdpa has neither class nor bus (drivers/vhost/vdpa.c), so there is no subsystem link: its name tells.
  const fs::path device = absl::StrCat(root, "/sys/dev/char/", major(st.st_rdev), ":", minor(st.st_rdev));
  const std::string name = LinkName(device);
  if (absl::StartsWith(name, "vhost-vdpa-")) return absl::OkStatus();
  if (name.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(node,
                     " has no device behind it that /sys/dev/char knows; make it anew (vdpa dev del NAME, vdpa "
                     "dev add …), and in a container mount sysfs"));
  }
  const std::string subsystem = LinkName(device / "subsystem");
  return refuse(subsystem.empty() ? absl::StrCat("the device ", name)
                                  : absl::StrCat("a device of class ", subsystem, " (", name, ")"));
}

}  // namespace everport
