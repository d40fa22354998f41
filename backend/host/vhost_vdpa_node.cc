#include "backend/host/vhost_vdpa_node.h"

#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace everport {

absl::Status CheckVhostVdpaNode(const std::string& root, const std::string& node) {
  struct stat st {};
  if (::stat((root + node).c_str(), &st) != 0) {
    const bool module = ::access((root + "/sys/bus/vdpa/drivers/vhost_vdpa").c_str(), F_OK) == 0;
    return absl::NotFoundError(absl::StrCat(node, " is missing; run: ",
                                            module ? "vdpa dev add (`vdpa mgmtdev show` lists what has devices)"
                                                   : "modprobe vhost_vdpa, and vdpa dev add"));
  }
  if (!S_ISCHR(st.st_mode))
    return absl::FailedPreconditionError(absl::StrCat(node, " is no device; name a /dev/vhost-vdpa-N"));
  return absl::OkStatus();
}

}  // namespace everport
