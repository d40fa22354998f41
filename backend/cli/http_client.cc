#include "backend/cli/http_client.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <optional>

#include "absl/strings/str_cat.h"
#include "backend/base/unix_address.h"

namespace everport::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;
using Local = asio::local::stream_protocol;
using Stream = beast::basic_stream<Local, asio::io_context::executor_type>;
using Clock = std::chrono::steady_clock;

constexpr size_t kMaxReply = 64 * 1024 * 1024;

absl::Status ConnectError(const std::string& path, const error_code& error) {
  const std::string what = absl::StrCat(path, ": ", error.message());
  if (error == asio::error::access_denied) {
    return absl::PermissionDeniedError(absl::StrCat(what, "; run as root or as a member of the group everport"));
  }
  return absl::UnavailableError(absl::StrCat(what, "; start everportd, or name its API socket with --api"));
}

// One request on its way, by asynchronous steps, so that each has a deadline and the wait can be watched.
class Exchange {
 public:
  Exchange(const std::string& path, std::chrono::milliseconds timeout) : path_(path), timeout_(timeout), stream_(io_) {
    parser_.body_limit(kMaxReply);
  }

  absl::StatusOr<HttpReply> Do(http::request<http::string_body> request, const HttpClient::Waiting& waiting) {
    if (absl::Status status = Connect(); !status.ok()) return status;
    request_ = std::move(request);
    stream_.expires_after(timeout_);
    http::async_write(stream_, request_, [this](error_code, size_t) {
      // A server that refuses a request may close before it has read all of it: its answer counts, not the failed
      // write.
      http::async_read(stream_, buffer_, parser_, [this](error_code error, size_t) { done_ = error; });
    });
    Wait(waiting);
    if (*done_) return Broken(*done_);
    return HttpReply{static_cast<int>(parser_.get().result_int()), std::move(parser_.get().body())};
  }

  absl::Status Lines(const http::request<http::string_body>& request, const std::function<bool(std::string_view)>& line,
                     const std::function<absl::Status(const HttpReply&)>& refused) {
    if (absl::Status status = Connect(); !status.ok()) return status;
    stream_.expires_after(timeout_);
    Await([&](auto done) { http::async_write(stream_, request, done); });  // as in Do, the answer counts
    parser_.body_limit(boost::none);
    error_code error = Await([&](auto done) { http::async_read_header(stream_, buffer_, parser_, done); });
    if (error) return Broken(error);
    std::string& body = parser_.get().body();
    if (parser_.get().result() != http::status::ok) {
      Await([&](auto done) { http::async_read(stream_, buffer_, parser_, done); });
      return refused(HttpReply{static_cast<int>(parser_.get().result_int()), body});
    }
    stream_.expires_never();
    while (true) {
      for (size_t end; (end = body.find('\n')) != std::string::npos; body.erase(0, end + 1)) {
        if (!line(std::string_view(body).substr(0, end))) return absl::OkStatus();
      }
      if (parser_.is_done()) return absl::OkStatus();
      error = Await([&](auto done) { http::async_read_some(stream_, buffer_, parser_, done); });
      if (error) return Broken(error);
    }
  }

 private:
  absl::Status Connect() {
    if (absl::Status status = UnixAddress::Of(path_).status(); !status.ok()) return status;
    error_code error;
    stream_.socket().connect(Local::endpoint(path_), error);
    return error ? ConnectError(path_, error) : absl::OkStatus();
  }

  // Runs one asynchronous step, which start begins, to its end.
  template <typename Start>
  error_code Await(const Start& start) {
    error_code result;
    start([&](error_code error, size_t) { result = error; });
    io_.restart();
    io_.run();
    return result;
  }

  void Wait(const HttpClient::Waiting& waiting) {
    const auto start = Clock::now();
    while (!done_) {
      io_.run_one_for(std::chrono::seconds(1));
      const auto waited = std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - start);
      if (!done_ && waiting && waited.count() >= 2) waiting(waited);
    }
  }

  absl::Status Broken(const error_code& error) const {
    if (error == beast::error::timeout) {
      return absl::DeadlineExceededError(absl::StrCat(
          path_, ": no answer within ", static_cast<double>(timeout_.count()) / 1000, " s; see the log of everportd"));
    }
    return absl::UnavailableError(
        absl::StrCat(path_, ": the answer broke off: ", error.message(), "; see the log of everportd"));
  }

  const std::string path_;
  const std::chrono::milliseconds timeout_;
  asio::io_context io_;
  Stream stream_;
  beast::flat_buffer buffer_;
  http::request<http::string_body> request_;
  http::response_parser<http::string_body> parser_;
  std::optional<error_code> done_;
};

http::request<http::string_body> MakeRequest(const std::string& method, const std::string& target,
                                             const std::string& body) {
  http::request<http::string_body> request;
  request.method_string(method);
  request.target(target);
  request.version(11);
  request.set(http::field::host, "everport");
  request.keep_alive(false);
  if (!body.empty()) request.set(http::field::content_type, "application/json");
  request.body() = body;
  request.prepare_payload();
  return request;
}

}  // namespace

absl::StatusOr<HttpReply> HttpClient::Do(const std::string& method, const std::string& target, const std::string& body,
                                         const Waiting& waiting) const {
  return Exchange(socket_path_, timeout_).Do(MakeRequest(method, target, body), waiting);
}

absl::Status HttpClient::Lines(const std::string& target, const std::function<bool(std::string_view)>& line,
                               const std::function<absl::Status(const HttpReply&)>& refused) const {
  return Exchange(socket_path_, timeout_).Lines(MakeRequest("GET", target, ""), line, refused);
}

}  // namespace everport::cli
