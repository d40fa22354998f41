#include "backend/datapath/vhost_vdpa_kernel.h"

#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace everport {
namespace {

class RealKernel final : public VhostVdpaKernel {
 public:
  int Open(const std::string& path) override {
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
  }
  void Close(int fd) override { ::close(fd); }
  int Ioctl(int fd, unsigned long request, void* argument) override {
    const int result = ::ioctl(fd, request, argument);
    return result < 0 ? -errno : result;
  }
  int Write(int fd, const void* data, size_t bytes) override {
    const ssize_t written = ::write(fd, data, bytes);
    if (written < 0) return -errno;
    return static_cast<size_t>(written) == bytes ? 0 : -EIO;
  }
  bool Present(int fd) override {
    struct stat node {};
    if (::fstat(fd, &node) != 0) return false;
    const std::string device = absl::StrCat("/sys/dev/char/", major(node.st_rdev), ":", minor(node.st_rdev));
    return ::access(device.c_str(), F_OK) == 0 || ::access("/sys/dev/char", F_OK) != 0;
  }
  int Watch(const std::string& path) override {
    const int fd = ::inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (fd < 0) return -errno;
    // Unlinking the node changes its link count; the inode itself stays while we have it open.
    if (::inotify_add_watch(fd, path.c_str(), IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF) >= 0) return fd;
    const int error = errno;
    ::close(fd);
    return -error;
  }
};

}  // namespace

std::shared_ptr<VhostVdpaKernel> RealVhostVdpaKernel() {
  return std::make_shared<RealKernel>();
}

}  // namespace everport
