#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>

namespace everport {

// sendmsg(2) on a Unix socket: `size` bytes, with them the descriptors (SCM_RIGHTS), which stay the caller's. At most
// kMostFdsSent of them: the kernel's SCM_MAX_FD. As sendmsg: how many bytes went, with all of the descriptors, or -1
// and errno. Any thread.
inline constexpr size_t kMostFdsSent = 253;
ssize_t SendWithFds(int socket, const void* bytes, size_t size, std::span<const int> fds, int flags);

}  // namespace everport
