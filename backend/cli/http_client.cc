#include "backend/cli/http_client.h"

#include <boost/asio/local/stream_protocol.hpp>
#include <boost/beast/core/basic_stream.hpp>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "backend/base/unix_address.h"
#include "backend/cli/http_exchange.h"
#include "backend/cli/tls_transport.h"
#include "backend/tls/any_stream_of.h"

namespace everport::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using boost::system::error_code;
using Local = asio::local::stream_protocol;

absl::Status ConnectError(const std::string& path, const std::string& option, const error_code& error) {
  const std::string what = absl::StrCat(path, ": ", error.message());
  if (error == asio::error::access_denied) {
    return absl::PermissionDeniedError(absl::StrCat(what, "; run as root or as a member of the group everport"));
  }
  return absl::UnavailableError(absl::StrCat(what, "; start everportd, or name its API socket with ", option));
}

// "10.0.0.2:9440", "[::1]:9440", which as a path would be a file in the current directory.
bool IsHostAndPort(const std::string& target) {
  const size_t colon = target.rfind(':');
  unsigned port = 0;
  return colon != std::string::npos && colon > 0 && !absl::StrContains(target, '/') &&
         !absl::StartsWith(target, "unix:") && absl::SimpleAtoi(target.substr(colon + 1), &port);
}

class UnixConnection : public HttpConnection {
 public:
  UnixConnection(const std::string& path, std::chrono::milliseconds timeout, const std::string& option)
      : path_(path), timeout_(timeout), option_(option), stream_(io_) {}

  asio::io_context& io() override { return io_; }
  AnyStream& stream() override { return stream_; }
  std::string host() const override { return "everport"; }

  absl::Status Connect() override {
    if (absl::Status status = UnixAddress::Of(path_).status(); !status.ok()) return status;
    error_code error;
    stream_.Socket().socket().connect(Local::endpoint(path_), error);
    return error ? ConnectError(path_, option_, error) : absl::OkStatus();
  }

  absl::Status Broken(const error_code& error, bool) const override {
    if (error == beast::error::timeout) {
      return absl::DeadlineExceededError(absl::StrCat(
          path_, ": no answer within ", static_cast<double>(timeout_.count()) / 1000, " s; see the log of everportd"));
    }
    return absl::UnavailableError(
        absl::StrCat(path_, ": the answer broke off: ", error.message(), "; see the log of everportd"));
  }

 private:
  const std::string path_;
  const std::chrono::milliseconds timeout_;
  const std::string option_;
  asio::io_context io_;
  AnyStreamOf<beast::basic_stream<Local, asio::io_context::executor_type>> stream_;
};

class UnixTransport : public HttpTransport {
 public:
  UnixTransport(std::string path, std::chrono::milliseconds timeout, const std::string& option)
      : path_(std::move(path)), timeout_(timeout), option_(option) {}
  absl::StatusOr<HttpReply> Do(const Request& request, const Waiting& waiting) const override {
    UnixConnection connection(path_, timeout_, option_);
    return HttpExchange(connection, timeout_).Do(request, waiting);
  }
  absl::Status Lines(const Request& request, const std::function<bool(std::string_view)>& line,
                     const std::function<absl::Status(const HttpReply&)>& refused) const override {
    UnixConnection connection(path_, timeout_, option_);
    return HttpExchange(connection, timeout_).Lines(request, line, refused);
  }

 private:
  const std::string path_;
  const std::chrono::milliseconds timeout_;
  const std::string option_;
};

}  // namespace

HttpClient::HttpClient(std::string socket_path, std::chrono::milliseconds timeout, const std::string& option)
    : name_(socket_path), transport_(std::make_shared<UnixTransport>(std::move(socket_path), timeout, option)) {}

absl::StatusOr<HttpClient> HttpClient::Open(const std::string& target, const TlsFiles& files,
                                            std::chrono::milliseconds timeout, const std::string& option) {
  if (absl::StartsWith(target, "http://")) {
    return absl::InvalidArgumentError(absl::StrCat(
        target, ": the API over TCP is spoken with TLS alone; write https://, and give --cert, --key and --ca"));
  }
  if (absl::StartsWith(target, "https://")) {
    auto where = ParseHttpsTarget(target);
    if (!where.ok()) return where.status();
    auto transport = OpenTlsTransport(*where, files, timeout);
    if (!transport.ok()) return transport.status();
    return HttpClient(where->url, true, *std::move(transport));
  }
  const std::string path(absl::StripPrefix(target, "unix:"));
  if (path.empty() || absl::StrContains(path, "://")) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", target, "\": no way to a daemon's API; give the path of its api.sock, or https://HOST:PORT"));
  }
  if (IsHostAndPort(target)) {
    return absl::InvalidArgumentError(
        absl::StrCat(option, " ", target, ": that is no socket's path; write https://", target));
  }
  return HttpClient(path, timeout, option);
}

}  // namespace everport::cli
