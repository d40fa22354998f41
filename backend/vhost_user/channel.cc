#include "backend/vhost_user/channel.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/base/send_fds.h"
#include "backend/vhost_user/codec.h"

namespace everport::vhost_user {
namespace {

constexpr size_t kControlBytes = CMSG_SPACE(sizeof(int) * kMaxFds);

absl::Status SocketError(const char* what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
}

}  // namespace

Channel::Channel(UniqueFd fd) : fd_(std::move(fd)) {
  ::fcntl(fd_.get(), F_SETFL, ::fcntl(fd_.get(), F_GETFL) | O_NONBLOCK);
}

// Every descriptor that has arrived is owned from here on, also those of a message that is refused.
absl::Status Channel::TakeFds(msghdr& header, bool at_start) {
  bool any = false;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
      in_.fds.emplace_back(fd);
      any = true;
    }
  }
  if (header.msg_flags & MSG_CTRUNC)
    return absl::InvalidArgumentError(absl::StrCat("more than ", kMaxFds, " descriptors with one message"));
  if (any && !at_start) return absl::InvalidArgumentError("descriptors in the middle of a message");
  return absl::OkStatus();
}

// Reads up to `bytes`; true when all have come.
absl::StatusOr<bool> Channel::Fill(uint8_t* to, size_t bytes, size_t done_before) {
  while (bytes > 0) {
    iovec iov{to, bytes};
    alignas(cmsghdr) char control[kControlBytes];
    msghdr header{};
    header.msg_iov = &iov;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    const ssize_t got = ::recvmsg(fd_.get(), &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return false;
      return SocketError("receive");
    }
    const bool at_start = done_before == 0;
    if (absl::Status status = TakeFds(header, at_start); !status.ok()) return status;
    if (got == 0) {
      if (have_ > 0) return absl::DataLossError("the peer closed the connection inside a message");
      return absl::UnavailableError("the peer closed the connection");
    }
    to += got;
    bytes -= static_cast<size_t>(got);
    have_ += static_cast<size_t>(got);
    done_before += static_cast<size_t>(got);
  }
  return true;
}

absl::StatusOr<std::optional<Message>> Channel::Receive() {
  if (have_ < sizeof header_) {
    auto* bytes = reinterpret_cast<uint8_t*>(&header_);
    const absl::StatusOr<bool> whole = Fill(bytes + have_, sizeof header_ - have_, have_);
    if (!whole.ok()) return whole.status();
    if (!*whole) return std::nullopt;
    in_.request = static_cast<Request>(header_.request);
    in_.flags = header_.flags;
    if (header_.size > kMaxPayload)
      return absl::InvalidArgumentError(absl::StrCat(RequestText(in_.request), ": payload of ", header_.size,
                                                     " bytes; at most ", kMaxPayload, " are allowed"));
    in_.payload.resize(header_.size);
  }
  const size_t done = have_ - sizeof header_;
  const absl::StatusOr<bool> whole = Fill(in_.payload.data() + done, in_.payload.size() - done, have_);
  if (!whole.ok()) return whole.status();
  if (!*whole) return std::nullopt;
  have_ = 0;
  return std::exchange(in_, Message{});
}

absl::Status Channel::Send(Message message) {
  if (out_.size() >= kMaxQueued) return absl::ResourceExhaustedError("the peer does not read its messages");
  Outgoing& out = out_.emplace_back();
  const Header header{static_cast<uint32_t>(message.request), message.flags,
                      static_cast<uint32_t>(message.payload.size())};
  out.bytes.resize(sizeof header + message.payload.size());
  std::memcpy(out.bytes.data(), &header, sizeof header);
  if (!message.payload.empty())
    std::memcpy(out.bytes.data() + sizeof header, message.payload.data(), message.payload.size());
  out.fds = std::move(message.fds);
  return Flush();
}

absl::Status Channel::Flush() {
  while (!out_.empty()) {
    Outgoing& out = out_.front();
    std::vector<int> fds;
    for (const UniqueFd& fd : out.fds) fds.push_back(fd.get());
    const ssize_t sent = SendWithFds(fd_.get(), out.bytes.data() + out.sent, out.bytes.size() - out.sent, fds,
                                     MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return absl::OkStatus();
      return SocketError("send");
    }
    out.fds.clear();
    out.sent += static_cast<size_t>(sent);
    if (out.sent == out.bytes.size()) out_.pop_front();
  }
  return absl::OkStatus();
}

}  // namespace everport::vhost_user
