#include "backend/cli/http_exchange.h"

#include <boost/beast/http.hpp>
#include <string_view>
#include <utility>

namespace everport::cli {

namespace http = boost::beast::http;

absl::StatusOr<HttpReply> HttpExchange::Do(const HttpTransport::Request& request,
                                           const HttpTransport::Waiting& waiting) {
  if (absl::Status status = connection_.Connect(); !status.ok()) return status;
  request_ = Make(request);
  AnyStream& stream = connection_.stream();
  stream.ExpiresAfter(timeout_);
  http::async_write(stream, request_, [this, &stream](error_code, size_t) {
    // A server that refuses a request may close before it has read all of it: its answer counts, not the failed write.
    http::async_read(stream, buffer_, parser_, [this](error_code error, size_t) { done_ = error; });
  });
  Wait(waiting);
  if (*done_) return Broken(*done_);
  return HttpReply{static_cast<int>(parser_.get().result_int()), std::move(parser_.get().body())};
}

absl::Status HttpExchange::Lines(const HttpTransport::Request& request,
                                 const std::function<bool(std::string_view)>& line,
                                 const std::function<absl::Status(const HttpReply&)>& refused) {
  if (absl::Status status = connection_.Connect(); !status.ok()) return status;
  request_ = Make(request);
  AnyStream& stream = connection_.stream();
  stream.ExpiresAfter(timeout_);
  Await([&](const auto& done) { http::async_write(stream, request_, done); });  // as in Do, the answer counts
  parser_.body_limit(boost::none);
  error_code error = Await([&](const auto& done) { http::async_read_header(stream, buffer_, parser_, done); });
  if (error) return Broken(error);
  std::string& body = parser_.get().body();
  if (parser_.get().result() != http::status::ok) {
    Await([&](const auto& done) { http::async_read(stream, buffer_, parser_, done); });
    return refused(HttpReply{static_cast<int>(parser_.get().result_int()), body});
  }
  stream.ExpiresNever();
  while (true) {
    for (size_t end; (end = body.find('\n')) != std::string::npos; body.erase(0, end + 1)) {
      if (!line(std::string_view(body).substr(0, end))) return absl::OkStatus();
    }
    if (parser_.is_done()) return absl::OkStatus();
    error = Await([&](const auto& done) { http::async_read_some(stream, buffer_, parser_, done); });
    if (error) return Broken(error);
  }
}

absl::Status HttpExchange::Broken(const error_code& error) {
  return connection_.Broken(error, parser_.got_some() || buffer_.size() > 0);
}

HttpExchange::error_code HttpExchange::Await(const std::function<void(const AnyStream::Done&)>& start) {
  error_code result;
  start([&](error_code error, size_t) { result = error; });
  connection_.io().restart();
  connection_.io().run();
  return result;
}

void HttpExchange::Wait(const HttpTransport::Waiting& waiting) {
  const auto start = std::chrono::steady_clock::now();
  connection_.io().restart();
  while (!done_) {
    connection_.io().run_one_for(std::chrono::seconds(1));
    const auto waited = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - start);
    if (!done_ && waiting && waited.count() >= 2) waiting(waited);
  }
}

HttpExchange::HttpRequest HttpExchange::Make(const HttpTransport::Request& request) const {
  HttpRequest made;
  made.method_string(request.method);
  made.target(request.target);
  made.version(11);
  made.set(http::field::host, connection_.host());
  made.keep_alive(false);
  if (!request.body.empty()) made.set(http::field::content_type, "application/json");
  made.body() = request.body;
  made.prepare_payload();
  return made;
}

}  // namespace everport::cli
