#include "backend/keeper/unix_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "backend/base/unix_address.h"

namespace everport {
namespace {

absl::Status Failed(const std::string& path, const char* what) {
  return absl::UnavailableError(absl::StrCat(path, ": ", what, ": ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<UniqueFd> ConnectUnix(const std::string& path, int type) {
  const absl::StatusOr<UnixAddress> address = UnixAddress::Of(path);
  if (!address.ok()) return address.status();
  UniqueFd fd(::socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return Failed(path, "socket");
  if (::connect(fd.get(), address->get(), address->size()) != 0) return Failed(path, "connect");
  return fd;
}

absl::StatusOr<UniqueFd> ListenUnix(const std::string& path, int type) {
  const absl::StatusOr<UnixAddress> address = UnixAddress::Of(path);
  if (!address.ok()) return address.status();
  struct stat st {};
  if (::lstat(path.c_str(), &st) == 0) {
    if (!S_ISSOCK(st.st_mode)) return absl::AlreadyExistsError(absl::StrCat(path, ": there, and not a socket"));
    if (ConnectUnix(path, type).ok()) return absl::AlreadyExistsError(absl::StrCat(path, ": another process answers"));
    ::unlink(path.c_str());
  }
  UniqueFd fd(::socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return Failed(path, "socket");
  const mode_t old = ::umask(0177);
  const int bound = ::bind(fd.get(), address->get(), address->size());
  ::umask(old);
  if (bound != 0) return Failed(path, "bind");
  constexpr int kBacklog = 16;
  if (::listen(fd.get(), kBacklog) != 0) return Failed(path, "listen");
  return fd;
}

UniqueFd AcceptUnix(int listener) {
  return UniqueFd(::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
}

absl::Status MakeFolder(const std::string& path, unsigned mode) {
  if (::mkdir(path.c_str(), mode) == 0) {
    ::chmod(path.c_str(), mode);  // whatever the umask
    return absl::OkStatus();
  }
  if (errno == ENOENT) {
    const size_t slash = path.find_last_of('/');
    if (slash != std::string::npos && slash > 0) {
      if (absl::Status status = MakeFolder(path.substr(0, slash), 0755); !status.ok()) return status;
      if (::mkdir(path.c_str(), mode) == 0) return absl::OkStatus();
    }
  }
  struct stat st {};
  if (errno == EEXIST && ::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode)) return absl::OkStatus();
  return Failed(path, "make folder");
}

}  // namespace everport
