#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace everport::cli {

struct HttpReply {
  int status = 0;
  std::string body;
};

// HTTP over the daemon's Unix socket, one connection a request. Blocks; any one thread.
class HttpClient {
 public:
  // waiting: called about once a second with the time waited so far, once that is 2 s.
  using Waiting = std::function<void(std::chrono::seconds)>;
  explicit HttpClient(std::string socket_path, std::chrono::milliseconds timeout = std::chrono::seconds(60))
      : socket_path_(std::move(socket_path)), timeout_(timeout) {}

  const std::string& socket_path() const { return socket_path_; }

  // Unavailable: nobody listens; PermissionDenied; DeadlineExceeded; whatever the reply's status is, it is a reply.
  absl::StatusOr<HttpReply> Do(const std::string& method, const std::string& target, const std::string& body = "",
                               const Waiting& waiting = {}) const;

  // GET of a reply in lines: calls line for each as it comes, until it returns false, or the server ends the reply
  // (both OK). Only the reply's beginning must come in time. A reply other than 200 is given to refused.
  absl::Status Lines(const std::string& target, const std::function<bool(std::string_view)>& line,
                     const std::function<absl::Status(const HttpReply&)>& refused) const;

 private:
  std::string socket_path_;
  std::chrono::milliseconds timeout_;
};

}  // namespace everport::cli
