#include "backend/base/send_fds.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace everport {

ssize_t SendWithFds(int socket, const void* bytes, size_t size, std::span<const int> fds, int flags) {
  if (fds.size() > kMostFdsSent) {
    errno = EINVAL;
    return -1;
  }
  iovec part{const_cast<void*>(bytes), size};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMostFdsSent)] = {};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (!fds.empty()) {
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
  }
  return ::sendmsg(socket, &header, flags);
}

}  // namespace everport
