#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace everport {

// Reads and writes of the files behind guest memory and the dirty log, and what a front-end's descriptors are. The
// keeper never maps guest memory for reading: a front-end that truncates its file must not kill it with SIGBUS. All
// calls return at once.
class GuestFiles {
 public:
  virtual ~GuestFiles() = default;
  // Bytes in the file. Refuses what is not a regular file or may block a reader for ever (FUSE, network).
  virtual absl::StatusOr<uint64_t> Size(int fd) = 0;
  // All of it or an error.
  virtual absl::Status Read(int fd, uint64_t offset, void* to, size_t bytes) = 0;
  virtual absl::Status Write(int fd, uint64_t offset, const void* from, size_t bytes) = 0;
  // Whether it is an eventfd. Of any other descriptor even poll(2) may wait for ever: somebody serves it.
  // This one asks the kernel; for a fake whose descriptors are no eventfds to replace.
  virtual absl::Status CheckEventFd(int fd);
};

// The real ones. hugetlbfs has no write(2): there a page is mapped for a moment and written by process_vm_writev(2),
// which returns EFAULT where a store would raise SIGBUS.
class RealGuestFiles final : public GuestFiles {
 public:
  absl::StatusOr<uint64_t> Size(int fd) override;
  absl::Status Read(int fd, uint64_t offset, void* to, size_t bytes) override;
  absl::Status Write(int fd, uint64_t offset, const void* from, size_t bytes) override;
};

}  // namespace everport
