#include "tests/fakes/vhost_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "backend/base/send_fds.h"
#include "backend/base/unix_address.h"
#include "tests/fakes/require.h"

namespace everport::fakes {
namespace {
constexpr size_t kMostFds = 253;  // SCM_MAX_FD
}

bool WaitFd(int fd, short events, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  for (;;) {
    pollfd p{.fd = fd, .events = events, .revents = 0};
    const int64_t left =
        std::max<int64_t>(0, absl::ToInt64Milliseconds(absl::Ceil(deadline - absl::Now(), absl::Milliseconds(1))));
    const int n = ::poll(&p, 1, static_cast<int>(left));
    if (n > 0) return true;
    if (n == 0 || errno != EINTR) return false;
  }
}

VhostListener::VhostListener(std::string path) : path_(std::move(path)) {
  ::unlink(path_.c_str());
  fd_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  FAKES_REQUIRE(fd_.valid());
  const auto address = UnixAddress::Of(path_);
  FAKES_REQUIRE(address.ok());
  // QEMU binds first and listens a moment later, too.
  FAKES_REQUIRE(::bind(fd_.get(), address->get(), address->size()) == 0);
  FAKES_REQUIRE(::listen(fd_.get(), 1) == 0);
}

VhostListener::~VhostListener() {
  ::unlink(path_.c_str());
}

absl::StatusOr<UniqueFd> VhostListener::Accept(absl::Duration timeout) {
  if (!WaitFd(fd_.get(), POLLIN, timeout))
    return absl::DeadlineExceededError(absl::StrCat(path_, ": nobody connected"));
  UniqueFd connection(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!connection.valid()) return absl::UnavailableError(absl::StrCat(path_, ": accept: ", std::strerror(errno)));
  return connection;
}

VhostSocket::VhostSocket(UniqueFd fd) : fd_(std::move(fd)) {
  const timeval limit{.tv_sec = 5, .tv_usec = 0};  // a peer that stops reading must not hang the test
  ::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

absl::Status VhostSocket::SendBytes(std::span<const uint8_t> bytes, std::span<const int> fds) {
  FAKES_REQUIRE(fds.size() <= kMostFds);
  while (!bytes.empty() || !fds.empty()) {
    const ssize_t n = SendWithFds(fd_.get(), bytes.data(), bytes.size(), fds, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::UnavailableError(absl::StrCat("send: ", std::strerror(errno)));
    bytes = bytes.subspan(static_cast<size_t>(n));
    fds = {};
  }
  return absl::OkStatus();
}

absl::Status VhostSocket::Send(vhost_user::Request request, std::span<const uint8_t> payload, std::span<const int> fds,
                               uint32_t flags) {
  const vhost_user::Header header{static_cast<uint32_t>(request), flags, static_cast<uint32_t>(payload.size())};
  std::vector<uint8_t> bytes(sizeof header + payload.size());
  std::memcpy(bytes.data(), &header, sizeof header);
  if (!payload.empty()) std::memcpy(bytes.data() + sizeof header, payload.data(), payload.size());
  return SendBytes(bytes, fds);
}

absl::Status VhostSocket::ReadExactly(uint8_t* to, size_t bytes, absl::Time deadline, std::vector<UniqueFd>* fds) {
  while (bytes > 0) {
    if (!WaitFd(fd_.get(), POLLIN, deadline - absl::Now())) return absl::DeadlineExceededError("no answer");
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMostFds)> control{};
    iovec iov{.iov_base = to, .iov_len = bytes};
    msghdr header{};
    header.msg_iov = &iov;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    const ssize_t n = ::recvmsg(fd_.get(), &header, MSG_CMSG_CLOEXEC);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::UnavailableError(absl::StrCat("receive: ", std::strerror(errno)));
    if (n == 0) return absl::UnavailableError("the back-end closed the connection");
    for (cmsghdr* cmsg = CMSG_FIRSTHDR(&header); cmsg != nullptr; cmsg = CMSG_NXTHDR(&header, cmsg)) {
      if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS) continue;
      const size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < count; ++i) {
        int fd;
        std::memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof fd, sizeof fd);
        fds->emplace_back(fd);
      }
    }
    to += n;
    bytes -= static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::StatusOr<vhost_user::Message> VhostSocket::Receive(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  vhost_user::Message message;
  vhost_user::Header header;
  if (auto s = ReadExactly(reinterpret_cast<uint8_t*>(&header), sizeof header, deadline, &message.fds); !s.ok())
    return s;
  if (header.size > 65536) return absl::DataLossError(absl::StrCat("an answer of ", header.size, " bytes"));
  message.request = static_cast<vhost_user::Request>(header.request);
  message.flags = header.flags;
  message.payload.resize(header.size);
  if (auto s = ReadExactly(message.payload.data(), header.size, deadline, &message.fds); !s.ok()) return s;
  return message;
}

bool VhostSocket::WaitClosed(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  do {
    if (!WaitFd(fd_.get(), POLLIN, deadline - absl::Now())) return false;
    std::vector<UniqueFd> fds;
    uint8_t byte;
    const absl::Status status = ReadExactly(&byte, 1, absl::Now() + absl::Milliseconds(1), &fds);
    if (absl::IsUnavailable(status)) return true;
  } while (absl::Now() < deadline);
  return false;
}

}  // namespace everport::fakes
