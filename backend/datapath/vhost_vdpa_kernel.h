#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace everport {

// What VhostVdpaDevice asks of the kernel, so that tests can answer instead. Each call may block for as long as the
// device behind the node does not answer; they come from one thread at a time. Failures are -errno.
class VhostVdpaKernel {
 public:
  virtual ~VhostVdpaKernel() = default;

  virtual int Open(const std::string& path) = 0;  // a descriptor; resets the device
  virtual void Close(int fd) = 0;                 // resets the device, unmaps all
  virtual int Ioctl(int fd, unsigned long request, void* argument) = 0;
  virtual int Write(int fd, const void* data, size_t bytes) = 0;  // 0: all was taken
  // Whether the device that fd was opened on is still there. The node alone does not tell: vhost-vdpa has no poll, and
  // its calls go on working when the device is about to be removed, which waits until fd is closed.
  virtual bool Present(int fd) = 0;
  // Readable when Present may have changed (inotify); -1: there is none.
  virtual int Watch(const std::string& path) = 0;
};

std::shared_ptr<VhostVdpaKernel> RealVhostVdpaKernel();

}  // namespace everport
