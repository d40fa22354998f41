#include "backend/keeper/guest_files.h"

#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace everport {
namespace {

absl::Status FileError(const char* what, int error) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(error)));
}

// Whoever serves such a file system may leave a read unanswered.
bool MayBlockForEver(const struct statfs& fs) {
  constexpr decltype(fs.f_type) kCifs = 0xff534d42;  // not in linux/magic.h of every release
  switch (static_cast<unsigned long>(fs.f_type)) {
    case FUSE_SUPER_MAGIC:
    case NFS_SUPER_MAGIC:
    case SMB_SUPER_MAGIC:
    case V9FS_MAGIC:
      return true;
    default:
      return static_cast<unsigned long>(fs.f_type) == static_cast<unsigned long>(kCifs);
  }
}

absl::Status WriteMapped(int fd, uint64_t offset, const void* from, size_t bytes) {
  struct stat st {};
  if (::fstat(fd, &st) != 0) return FileError("fstat", errno);
  const uint64_t page = static_cast<uint64_t>(st.st_blksize);  // hugetlbfs: the size of its pages
  if (page == 0 || (page & (page - 1)) != 0) return FileError("page size", EINVAL);
  const uint64_t start = offset & ~(page - 1);
  const size_t length = ((offset + bytes + page - 1) & ~(page - 1)) - start;
  void* map = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(start));
  if (map == MAP_FAILED) return FileError("mmap", errno);
  const iovec local{const_cast<void*>(from), bytes};
  const iovec remote{static_cast<char*>(map) + (offset - start), bytes};
  const ssize_t done = ::process_vm_writev(::getpid(), &local, 1, &remote, 1, 0);
  const int error = done < 0 ? errno : EFAULT;
  ::munmap(map, length);
  return done == static_cast<ssize_t>(bytes) ? absl::OkStatus() : FileError("write", error);
}

}  // namespace

absl::StatusOr<uint64_t> RealGuestFiles::Size(int fd) {
  struct stat st {};
  struct statfs fs {};
  if (::fstat(fd, &st) != 0) return FileError("fstat", errno);
  if (!S_ISREG(st.st_mode)) return absl::InvalidArgumentError("not a memory file (use share=on)");
  if (::fstatfs(fd, &fs) != 0) return FileError("fstatfs", errno);
  if (MayBlockForEver(fs)) return absl::InvalidArgumentError("on a FUSE or network file system");
  return static_cast<uint64_t>(st.st_size);
}

absl::Status RealGuestFiles::Read(int fd, uint64_t offset, void* to, size_t bytes) {
  const ssize_t got = ::pread(fd, to, bytes, static_cast<off_t>(offset));
  if (got < 0) return FileError("read", errno);
  return got == static_cast<ssize_t>(bytes) ? absl::OkStatus() : absl::UnavailableError("read: the file is shorter");
}

absl::Status RealGuestFiles::Write(int fd, uint64_t offset, const void* from, size_t bytes) {
  struct stat st {};
  // pwrite would lengthen a truncated file.
  if (::fstat(fd, &st) != 0) return FileError("fstat", errno);
  if (static_cast<uint64_t>(st.st_size) < offset + bytes) return absl::UnavailableError("write: the file is shorter");
  const ssize_t done = ::pwrite(fd, from, bytes, static_cast<off_t>(offset));
  if (done < 0 && errno == EINVAL) return WriteMapped(fd, offset, from, bytes);
  if (done < 0) return FileError("write", errno);
  return done == static_cast<ssize_t>(bytes) ? absl::OkStatus() : absl::UnavailableError("write: incomplete");
}

absl::Status GuestFiles::CheckEventFd(int fd) {
  constexpr std::string_view kEventFd = "anon_inode:[eventfd]";
  char target[64];
  const ssize_t got = ::readlink(absl::StrCat("/proc/self/fd/", fd).c_str(), target, sizeof target);
  if (got < 0) return FileError("readlink in /proc/self/fd", errno);
  const std::string_view text(target, static_cast<size_t>(got));
  if (text.substr(0, kEventFd.size()) != kEventFd) return absl::InvalidArgumentError("not an eventfd");
  return absl::OkStatus();
}

}  // namespace everport
