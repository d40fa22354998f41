#pragma once

// One request on its way, over whatever connection. Internal to the transports; heavy, so each includes it in one file.

#include <boost/asio/io_context.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/stream_traits.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <optional>
#include <string>

#include "backend/cli/http_client.h"

namespace everport::cli {

// A Connection has: io(), stream(), host() for the header, Connect() and Broken(error, answered), which words an error
// of the stream; answered: part of the answer has come.
template <typename Connection>
class HttpExchange {
 public:
  using error_code = boost::system::error_code;

  HttpExchange(Connection& connection, std::chrono::milliseconds timeout) : connection_(connection), timeout_(timeout) {
    parser_.body_limit(kMaxReply);
  }

  absl::StatusOr<HttpReply> Do(const HttpTransport::Request& request, const HttpTransport::Waiting& waiting) {
    if (absl::Status status = connection_.Connect(); !status.ok()) return status;
    request_ = Make(request);
    Socket().expires_after(timeout_);
    boost::beast::http::async_write(connection_.stream(), request_, [this](error_code, size_t) {
      // A server that refuses a request may close before it has read all of it: its answer counts, not the failed
      // write.
      boost::beast::http::async_read(connection_.stream(), buffer_, parser_,
                                     [this](error_code error, size_t) { done_ = error; });
    });
    Wait(waiting);
    if (*done_) return Broken(*done_);
    return HttpReply{static_cast<int>(parser_.get().result_int()), std::move(parser_.get().body())};
  }

  absl::Status Lines(const HttpTransport::Request& request, const std::function<bool(std::string_view)>& line,
                     const std::function<absl::Status(const HttpReply&)>& refused) {
    if (absl::Status status = connection_.Connect(); !status.ok()) return status;
    request_ = Make(request);
    auto& stream = connection_.stream();
    Socket().expires_after(timeout_);
    Await([&](auto done) { boost::beast::http::async_write(stream, request_, done); });  // as in Do, the answer counts
    parser_.body_limit(boost::none);
    error_code error = Await([&](auto done) { boost::beast::http::async_read_header(stream, buffer_, parser_, done); });
    if (error) return Broken(error);
    std::string& body = parser_.get().body();
    if (parser_.get().result() != boost::beast::http::status::ok) {
      Await([&](auto done) { boost::beast::http::async_read(stream, buffer_, parser_, done); });
      return refused(HttpReply{static_cast<int>(parser_.get().result_int()), body});
    }
    Socket().expires_never();
    while (true) {
      for (size_t end; (end = body.find('\n')) != std::string::npos; body.erase(0, end + 1)) {
        if (!line(std::string_view(body).substr(0, end))) return absl::OkStatus();
      }
      if (parser_.is_done()) return absl::OkStatus();
      error = Await([&](auto done) { boost::beast::http::async_read_some(stream, buffer_, parser_, done); });
      if (error) return Broken(error);
    }
  }

 private:
  auto& Socket() { return boost::beast::get_lowest_layer(connection_.stream()); }

  absl::Status Broken(const error_code& error) {
    return connection_.Broken(error, parser_.got_some() || buffer_.size() > 0);
  }

  // Runs one asynchronous step, which start begins, to its end.
  template <typename Start>
  error_code Await(const Start& start) {
    error_code result;
    start([&](error_code error, size_t) { result = error; });
    connection_.io().restart();
    connection_.io().run();
    return result;
  }

  void Wait(const HttpTransport::Waiting& waiting) {
    const auto start = std::chrono::steady_clock::now();
    connection_.io().restart();
    while (!done_) {
      connection_.io().run_one_for(std::chrono::seconds(1));
      const auto waited = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - start);
      if (!done_ && waiting && waited.count() >= 2) waiting(waited);
    }
  }

  boost::beast::http::request<boost::beast::http::string_body> Make(const HttpTransport::Request& request) const {
    boost::beast::http::request<boost::beast::http::string_body> made;
    made.method_string(request.method);
    made.target(request.target);
    made.version(11);
    made.set(boost::beast::http::field::host, connection_.host());
    made.keep_alive(false);
    if (!request.body.empty()) made.set(boost::beast::http::field::content_type, "application/json");
    made.body() = request.body;
    made.prepare_payload();
    return made;
  }

  static constexpr size_t kMaxReply = 64 * 1024 * 1024;

  Connection& connection_;
  const std::chrono::milliseconds timeout_;
  boost::beast::flat_buffer buffer_;
  boost::beast::http::request<boost::beast::http::string_body> request_;
  boost::beast::http::response_parser<boost::beast::http::string_body> parser_;
  std::optional<error_code> done_;
};

}  // namespace everport::cli
