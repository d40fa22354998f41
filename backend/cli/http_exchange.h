#pragma once

// One request on its way, over whatever connection. Internal to the transports.

#include <boost/asio/io_context.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/system/error_code.hpp>
#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/cli/http_client.h"
#include "backend/tls/any_stream.h"

namespace everport::cli {

// To a daemon, for one request. Its stream runs on its io().
class HttpConnection {
 public:
  virtual ~HttpConnection() = default;
  virtual boost::asio::io_context& io() = 0;
  virtual AnyStream& stream() = 0;
  virtual std::string host() const = 0;  // for the request's header
  virtual absl::Status Connect() = 0;
  // Words an error of the stream; answered: part of the answer has come.
  virtual absl::Status Broken(const boost::system::error_code& error, bool answered) const = 0;
};

class HttpExchange {
 public:
  HttpExchange(HttpConnection& connection, std::chrono::milliseconds timeout)
      : connection_(connection), timeout_(timeout) {
    parser_.body_limit(kMaxReply);
  }

  absl::StatusOr<HttpReply> Do(const HttpTransport::Request& request, const HttpTransport::Waiting& waiting);
  absl::Status Lines(const HttpTransport::Request& request, const std::function<bool(std::string_view)>& line,
                     const std::function<absl::Status(const HttpReply&)>& refused);

 private:
  using error_code = boost::system::error_code;
  using HttpRequest = boost::beast::http::request<boost::beast::http::string_body>;

  absl::Status Broken(const error_code& error);
  // Runs one asynchronous step, which start begins with the handler that it is given, to its end.
  error_code Await(const std::function<void(const AnyStream::Done&)>& start);
  void Wait(const HttpTransport::Waiting& waiting);
  HttpRequest Make(const HttpTransport::Request& request) const;

  static constexpr size_t kMaxReply = 64 * 1024 * 1024;

  HttpConnection& connection_;
  const std::chrono::milliseconds timeout_;
  boost::beast::flat_buffer buffer_;
  HttpRequest request_;
  boost::beast::http::response_parser<boost::beast::http::string_body> parser_;
  std::optional<error_code> done_;
};

}  // namespace everport::cli
