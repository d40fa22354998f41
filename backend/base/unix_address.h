#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace everport {

// Where a Unix socket lies in the file system, as bind() and connect() take it. A value; see unix(7), "pathname".
class UnixAddress {
 public:
  static constexpr size_t kMaxPath = sizeof(sockaddr_un::sun_path) - 1;  // bytes, without the NUL: 107

  // InvalidArgument, naming the path and the limit, when it is empty, longer than kMaxPath or has a NUL in it: the
  // kernel would take another path, or (for a leading NUL) no path at all.
  static absl::StatusOr<UnixAddress> Of(absl::string_view path);

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address_); }
  socklen_t size() const { return sizeof address_; }

 private:
  UnixAddress() = default;
  sockaddr_un address_{};
};

}  // namespace everport
