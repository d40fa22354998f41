#pragma once

// One client of the API, on whatever stream: a Unix socket, or TLS over TCP. Internal to the listeners; heavy, so each
// kind of stream has one file that includes it. Control thread.

#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/stream_traits.hpp>
#include <boost/beast/http.hpp>
#include <boost/system/error_code.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/api/http_reply.h"
#include "backend/api/routes.h"
#include "backend/api/session_set.h"
#include "backend/base/log.h"

namespace everport {

// One client. Waits for a request, reads it, routes it, writes the reply, and so on; or ends as a stream of events.
template <typename Stream>
class HttpSession : public Session, public std::enable_shared_from_this<HttpSession<Stream>> {
 public:
  using error_code = boost::system::error_code;
  // from: what a Stream is made of.
  template <typename From>
  HttpSession(const std::shared_ptr<SessionSet>& set, From from)
      : set_(set), limits_(set->limits()), stream_(std::move(from)) {}

  void AwaitRequest();
  // Answers so whatever the client asks, and ends.
  void TurnAway(ApiResponse response) { Respond(std::move(response)); }
  // Further handlers come with an error and do nothing.
  void End() override;

 private:
  auto Bind(void (HttpSession::*handler)(error_code, size_t)) {
    return [self = this->shared_from_this(), handler](error_code error, size_t bytes) {
      (self.get()->*handler)(error, bytes);
    };
  }
  // The socket with its timeouts, below TLS if there is any.
  auto& Socket() { return boost::beast::get_lowest_layer(stream_); }
  void ReadRequest();
  void OnFirstBytes(error_code error, size_t bytes);
  void OnRequest(error_code error, size_t bytes);
  void Refuse(error_code error);
  void Respond(ApiResponse response);
  void Write(HttpReply reply);
  void OnWritten(error_code error, size_t bytes);
  void StopSending();
  void Drain(error_code error, size_t bytes);

  void Follow(ApiResponse response);
  void OnHead(error_code error, size_t bytes);
  void OnEvent(const EventView& event);
  void OnClientSpoke(error_code error, size_t bytes);
  void WriteEvents();
  void OnEventsWritten(error_code error, size_t bytes);

  const std::weak_ptr<SessionSet> set_;
  const ApiLimits limits_;
  Stream stream_;
  boost::beast::flat_buffer buffer_;
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  unsigned version_ = 11;
  bool keep_alive_ = false;
  bool ended_ = false;
  HttpReply reply_;
  size_t drained_ = 0;

  boost::beast::http::response<boost::beast::http::empty_body> head_;
  std::optional<boost::beast::http::response_serializer<boost::beast::http::empty_body>> head_serializer_;
  int subscription_ = -1;
  bool streaming_ = false;  // the head is written
  bool writing_ = false;    // out_ is on its way
  std::string queue_, out_;
};

template <typename Stream>
void HttpSession<Stream>::End() {
  if (std::exchange(ended_, true)) return;
  const auto self = this->shared_from_this();
  if (const auto set = set_.lock()) {
    if (subscription_ >= 0) set->service().UnsubscribeEvents(subscription_);
    set->Forget(self);
  }
  Socket().close();
}

template <typename Stream>
void HttpSession<Stream>::AwaitRequest() {
  if (buffer_.size() > 0) return ReadRequest();  // the client did not wait for the last reply
  Socket().expires_after(limits_.idle);
  stream_.async_read_some(buffer_.prepare(4096), Bind(&HttpSession::OnFirstBytes));
}

template <typename Stream>
void HttpSession<Stream>::OnFirstBytes(error_code error, size_t bytes) {
  if (error) return End();
  buffer_.commit(bytes);
  ReadRequest();
}

template <typename Stream>
void HttpSession<Stream>::ReadRequest() {
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(limits_.header_bytes));
  parser_->body_limit(limits_.body_bytes);
  Socket().expires_after(limits_.request);  // for all of it: a client that trickles gets no more
  boost::beast::http::async_read(stream_, buffer_, *parser_, Bind(&HttpSession::OnRequest));
}

template <typename Stream>
void HttpSession<Stream>::OnRequest(error_code error, size_t) {
  if (error) return Refuse(error);
  const auto set = set_.lock();
  if (!set || ended_) return End();
  const auto& message = parser_->get();
  version_ = message.version();
  keep_alive_ = message.keep_alive();
  ApiRequest request{std::string(message.method_string()), std::string(message.target()), message.body()};
  Socket().expires_never();
  Route(request, set->service(), [weak = this->weak_from_this()](ApiResponse response) {
    if (const auto self = weak.lock()) self->Respond(std::move(response));
  });
}

template <typename Stream>
void HttpSession<Stream>::Refuse(error_code error) {
  // What is no HTTP error is a client that went, or that ran out of time: basic_stream has closed the socket then.
  if (error == boost::beast::http::error::end_of_stream ||
      error.category() != make_error_code(boost::beast::http::error::bad_method).category()) {
    return End();
  }
  keep_alive_ = false;
  if (error == boost::beast::http::error::body_limit) {
    return Respond(ErrorResponse(
        413, absl::StrCat("request: body of more than ", limits_.body_bytes, " bytes; send ports one by one")));
  }
  if (error == boost::beast::http::error::header_limit) {
    return Respond(ErrorResponse(431, absl::StrCat("request: header of more than ", limits_.header_bytes,
                                                   " bytes; the API needs none but Host and Content-Length")));
  }
  Respond(ErrorResponse(
      400, absl::StrCat("request: not HTTP/1.1: ", error.message(), "; use everportctl or curl --unix-socket")));
}

template <typename Stream>
void HttpSession<Stream>::Respond(ApiResponse response) {
  if (ended_) return;
  if (response.follow_events) return Follow(std::move(response));
  Write(MakeHttpReply(std::move(response), version_, keep_alive_));
}

template <typename Stream>
void HttpSession<Stream>::Write(HttpReply reply) {
  reply_ = std::move(reply);
  Socket().expires_after(limits_.request);
  boost::beast::http::async_write(stream_, reply_, Bind(&HttpSession::OnWritten));
}

template <typename Stream>
void HttpSession<Stream>::OnWritten(error_code error, size_t) {
  if (error) return End();
  if (keep_alive_) return AwaitRequest();
  Socket().expires_after(kDrainTime);
  if constexpr (requires { stream_.async_shutdown(nullptr); }) {  // TLS says goodbye by itself first
    stream_.async_shutdown([self = this->shared_from_this()](error_code) { self->StopSending(); });
  } else {
    StopSending();
  }
}

template <typename Stream>
void HttpSession<Stream>::StopSending() {
  if (ended_) return;
  error_code ignored;
  Socket().socket().shutdown(boost::asio::socket_base::shutdown_send, ignored);
  Socket().expires_after(kDrainTime);
  Drain({}, 0);
}

template <typename Stream>
void HttpSession<Stream>::Drain(error_code error, size_t bytes) {
  drained_ += bytes;
  if (error || drained_ > kDrainBytes) return End();
  buffer_.clear();
  Socket().async_read_some(buffer_.prepare(64 * 1024), Bind(&HttpSession::Drain));
}

template <typename Stream>
void HttpSession<Stream>::Follow(ApiResponse response) {
  const auto set = set_.lock();
  if (!set) return End();
  queue_ = std::move(response.body);
  subscription_ = set->service().SubscribeEvents([weak = this->weak_from_this()](const EventView& event) {
    if (const auto self = weak.lock()) self->OnEvent(event);
  });
  head_ = boost::beast::http::response<boost::beast::http::empty_body>(boost::beast::http::status::ok, version_);
  head_.set(boost::beast::http::field::content_type, response.content_type);
  head_.keep_alive(false);
  head_.chunked(version_ >= 11);
  head_serializer_.emplace(head_);
  Socket().expires_after(limits_.request);
  boost::beast::http::async_write_header(stream_, *head_serializer_, Bind(&HttpSession::OnHead));
}

template <typename Stream>
void HttpSession<Stream>::OnHead(error_code error, size_t) {
  if (error || ended_) return End();
  streaming_ = true;
  Socket().expires_never();
  buffer_.clear();
  stream_.async_read_some(buffer_.prepare(1), Bind(&HttpSession::OnClientSpoke));
  WriteEvents();
}

// A reader of events has nothing more to say; what it says, or that it goes, ends the stream.
template <typename Stream>
void HttpSession<Stream>::OnClientSpoke(error_code error, size_t) {
  if (error == boost::asio::error::operation_aborted) return;  // a write has timed out, and its handler comes next
  End();
}

template <typename Stream>
void HttpSession<Stream>::OnEvent(const EventView& event) {
  if (ended_) return;
  queue_ += EventLine(event);
  if (queue_.size() > limits_.event_queue_bytes) {
    spdlog::warn("api: a reader of /v1/events is {} bytes behind; dropped", queue_.size());
    queue_.clear();
    // Not from inside the service's call: it may be going through its listeners.
    return boost::asio::post(stream_.get_executor(), [self = this->shared_from_this()] { self->End(); });
  }
  if (streaming_) WriteEvents();
}

template <typename Stream>
void HttpSession<Stream>::WriteEvents() {
  if (writing_ || queue_.empty() || ended_) return;
  writing_ = true;
  out_ = std::exchange(queue_, {});
  Socket().expires_after(limits_.request);
  if (version_ >= 11) {
    boost::asio::async_write(stream_, boost::beast::http::make_chunk(boost::asio::buffer(out_)),
                             Bind(&HttpSession::OnEventsWritten));
  } else {
    boost::asio::async_write(stream_, boost::asio::buffer(out_), Bind(&HttpSession::OnEventsWritten));
  }
}

template <typename Stream>
void HttpSession<Stream>::OnEventsWritten(error_code error, size_t) {
  writing_ = false;
  if (error == boost::beast::error::timeout) {
    spdlog::warn("api: a reader of /v1/events took nothing for {} ms; dropped", limits_.request.count());
  }
  if (error || ended_) return End();
  WriteEvents();
}

}  // namespace everport
