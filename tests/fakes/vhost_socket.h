#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "backend/base/unique_fd.h"
#include "backend/vhost_user/message.h"

namespace everport::fakes {

// A front-end's server socket, as QEMU's -chardev socket,server=on: the name appears in the folder at Listen.
class VhostListener {
 public:
  explicit VhostListener(std::string path);  // replaces a stale socket of that name and listens
  ~VhostListener();
  VhostListener(const VhostListener&) = delete;
  VhostListener& operator=(const VhostListener&) = delete;

  absl::StatusOr<UniqueFd> Accept(absl::Duration timeout);
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  UniqueFd fd_;
};

// One vhost-user connection seen from the front-end, able to send anything. Own framing on purpose: the code under test
// has its own codec, and a mistake shared by both would not show. Blocking with deadlines; not thread-safe.
class VhostSocket {
 public:
  VhostSocket() = default;
  explicit VhostSocket(UniqueFd fd);

  // Bytes as they are, with descriptors (kept open here). Unavailable when the peer has closed.
  absl::Status SendBytes(std::span<const uint8_t> bytes, std::span<const int> fds = {});
  absl::Status Send(vhost_user::Request request, std::span<const uint8_t> payload, std::span<const int> fds = {},
                    uint32_t flags = vhost_user::kVersion);
  template <typename T>
  absl::Status SendValue(vhost_user::Request request, const T& value, std::span<const int> fds = {},
                         uint32_t flags = vhost_user::kVersion) {
    return Send(request, {reinterpret_cast<const uint8_t*>(&value), sizeof value}, fds, flags);
  }

  // The next whole message. DeadlineExceeded, or Unavailable when the peer has closed.
  absl::StatusOr<vhost_user::Message> Receive(absl::Duration timeout);
  // Waits for the peer to close; bytes that come before are thrown away. False: it has not by then.
  bool WaitClosed(absl::Duration timeout);
  // True if the peer has closed (does not wait).
  bool closed() { return WaitClosed(absl::ZeroDuration()); }

  bool valid() const { return fd_.valid(); }
  int fd() const { return fd_.get(); }
  void Close() { fd_.reset(); }

 private:
  absl::Status ReadExactly(uint8_t* to, size_t bytes, absl::Time deadline, std::vector<UniqueFd>* fds);

  UniqueFd fd_;
};

// Waits for `events` on fd. False: not by then.
bool WaitFd(int fd, short events, absl::Duration timeout);

}  // namespace everport::fakes
