#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/tls/files.h"

namespace everport::cli {

struct HttpReply {
  int status = 0;
  std::string body;
};

// How a daemon is reached: one implementation for its Unix socket, one for TLS over TCP.
class HttpTransport {
 public:
  using Waiting = std::function<void(std::chrono::seconds)>;
  struct Request {
    std::string method, target, body;
  };
  virtual ~HttpTransport() = default;
  virtual absl::StatusOr<HttpReply> Do(const Request& request, const Waiting& waiting) const = 0;
  virtual absl::Status Lines(const Request& request, const std::function<bool(std::string_view)>& line,
                             const std::function<absl::Status(const HttpReply&)>& refused) const = 0;
};

// HTTP with a daemon's API, one connection a request. Blocks; any one thread. Copies share what was read of files.
class HttpClient {
 public:
  static constexpr std::chrono::seconds kTimeout{60};
  // waiting: called about once a second with the time waited so far, once that is 2 s.
  using Waiting = HttpTransport::Waiting;

  // target: a socket's path, unix:PATH, or https://HOST:PORT, for which alone the files are read. InvalidArgument: it
  // is none of these; FailedPrecondition: a file will not do. Nothing is connected yet. option: that target was given
  // with, for errors.
  static absl::StatusOr<HttpClient> Open(const std::string& target, const TlsFiles& files,
                                         std::chrono::milliseconds timeout = kTimeout,
                                         const std::string& option = "--api");
  explicit HttpClient(std::string socket_path, std::chrono::milliseconds timeout = kTimeout,
                      const std::string& option = "--api");

  // What errors begin with: the socket's path, or https://HOST:PORT.
  const std::string& name() const { return name_; }
  // Whether the daemon may be another host's.
  bool over_tcp() const { return over_tcp_; }

  // Unavailable: nobody listens, or the connection broke; PermissionDenied: this user, or this certificate, may not;
  // FailedPrecondition: the server is not who it should be; DeadlineExceeded; whatever the reply's status is, it is a
  // reply.
  absl::StatusOr<HttpReply> Do(const std::string& method, const std::string& target, const std::string& body = "",
                               const Waiting& waiting = {}) const {
    return transport_->Do({method, target, body}, waiting);
  }

  // GET of a reply in lines: calls line for each as it comes, until it returns false, or the server ends the reply
  // (both OK). Only the reply's beginning must come in time. A reply other than 200 is given to refused.
  absl::Status Lines(const std::string& target, const std::function<bool(std::string_view)>& line,
                     const std::function<absl::Status(const HttpReply&)>& refused) const {
    return transport_->Lines({"GET", target, ""}, line, refused);
  }

 private:
  HttpClient(std::string name, bool over_tcp, std::shared_ptr<const HttpTransport> transport)
      : name_(std::move(name)), over_tcp_(over_tcp), transport_(std::move(transport)) {}

  std::string name_;
  bool over_tcp_ = false;
  std::shared_ptr<const HttpTransport> transport_;
};

}  // namespace everport::cli
