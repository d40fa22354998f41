#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <deque>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/vhost_user/message.h"

namespace everport::vhost_user {

// A vhost-user stream on a non-blocking unix socket, either end. Reassembles messages and queues what the socket does
// not take at once. Never waits. One thread.
//
// Descriptors travel with the first byte of a message (vhost-user.rst, "Communication": in the ancillary data of the
// message); at any other place they are an error. After an error the channel is of no further use: close it.
class Channel {
 public:
  explicit Channel(UniqueFd fd);  // made non-blocking

  // The next whole message; nullopt: not there yet (wait until the socket is readable). Errors: Unavailable when the
  // peer has closed between two messages; DataLoss when it broke off inside one; InvalidArgument for too long a
  // payload, more than kMaxFds descriptors, or descriptors in the middle.
  absl::StatusOr<std::optional<Message>> Receive();

  // Takes the message and sends what it can. Errors: Unavailable when the peer has closed; ResourceExhausted when more
  // than kMaxQueued messages wait for a peer that does not read.
  absl::Status Send(Message message);
  absl::Status Flush();  // when writable

  bool wants_write() const { return !out_.empty(); }
  bool mid_message() const { return have_ > 0; }  // something of a message has come, not all
  int fd() const { return fd_.get(); }

  static constexpr size_t kMaxQueued = 1024;  // a replay of 32 vrings is under 250

 private:
  absl::StatusOr<bool> Fill(uint8_t* to, size_t bytes, size_t done_before);
  absl::Status TakeFds(msghdr& header, bool at_start);

  struct Outgoing {
    std::vector<uint8_t> bytes;
    size_t sent = 0;
    std::vector<UniqueFd> fds;  // emptied with the first byte
  };

  UniqueFd fd_;
  Header header_{};
  size_t have_ = 0;  // bytes of the present message, header included
  Message in_;
  std::deque<Outgoing> out_;
};

}  // namespace everport::vhost_user
