#include "backend/api/http_session.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/error.hpp>
#include <boost/beast/http.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/api/routes.h"
#include "backend/base/log.h"

namespace everport {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

auto HttpSession::Bind(void (HttpSession::*handler)(error_code, size_t)) {
  return [self = shared_from_this(), handler](error_code error, size_t bytes) { (self.get()->*handler)(error, bytes); };
}

void HttpSession::End() {
  if (std::exchange(ended_, true)) return;
  const auto self = shared_from_this();
  if (const auto set = set_.lock()) {
    if (subscription_ >= 0) set->service().UnsubscribeEvents(subscription_);
    set->Forget(self);
  }
  stream_->Close();
}

void HttpSession::AwaitRequest() {
  if (buffer_.size() > 0) return ReadRequest();  // the client did not wait for the last reply
  stream_->ExpiresAfter(limits_.idle);
  stream_->async_read_some(buffer_.prepare(4096), Bind(&HttpSession::OnFirstBytes));
}

void HttpSession::OnFirstBytes(error_code error, size_t bytes) {
  if (error) return End();
  buffer_.commit(bytes);
  ReadRequest();
}

void HttpSession::ReadRequest() {
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(limits_.header_bytes));
  parser_->body_limit(limits_.body_bytes);
  stream_->ExpiresAfter(limits_.request);  // for all of it: a client that trickles gets no more
  http::async_read(*stream_, buffer_, *parser_, Bind(&HttpSession::OnRequest));
}

void HttpSession::OnRequest(error_code error, size_t) {
  if (error) return Refuse(error);
  const auto set = set_.lock();
  if (!set || ended_) return End();
  const auto& message = parser_->get();
  version_ = message.version();
  keep_alive_ = message.keep_alive();
  ApiRequest request{std::string(message.method_string()), std::string(message.target()), message.body()};
  stream_->ExpiresNever();
  Route(request, set->service(), [weak = weak_from_this()](ApiResponse response) {
    if (const auto self = weak.lock()) self->Respond(std::move(response));
  });
}

void HttpSession::Refuse(error_code error) {
  // What is no HTTP error is a client that went, or that ran out of time: basic_stream has closed the socket then.
  if (error == http::error::end_of_stream || error.category() != make_error_code(http::error::bad_method).category()) {
    return End();
  }
  keep_alive_ = false;
  if (error == http::error::body_limit) {
    return Respond(ErrorResponse(
        413, absl::StrCat("request: body of more than ", limits_.body_bytes, " bytes; send ports one by one")));
  }
  if (error == http::error::header_limit) {
    return Respond(ErrorResponse(431, absl::StrCat("request: header of more than ", limits_.header_bytes,
                                                   " bytes; the API needs none but Host and Content-Length")));
  }
  Respond(ErrorResponse(
      400, absl::StrCat("request: not HTTP/1.1: ", error.message(), "; use everportctl or curl --unix-socket")));
}

void HttpSession::Respond(ApiResponse response) {
  if (ended_) return;
  if (response.follow_events) return Follow(std::move(response));
  Write(MakeHttpReply(std::move(response), version_, keep_alive_));
}

void HttpSession::Write(HttpReply reply) {
  reply_ = std::move(reply);
  stream_->ExpiresAfter(limits_.request);
  http::async_write(*stream_, reply_, Bind(&HttpSession::OnWritten));
}

void HttpSession::OnWritten(error_code error, size_t) {
  if (error) return End();
  if (keep_alive_) return AwaitRequest();
  stream_->ExpiresAfter(kDrainTime);
  stream_->SayGoodbye([self = shared_from_this()] { self->StopSending(); });
}

void HttpSession::StopSending() {
  if (ended_) return;
  stream_->StopSending();
  stream_->ExpiresAfter(kDrainTime);
  Drain({}, 0);
}

void HttpSession::Drain(error_code error, size_t bytes) {
  drained_ += bytes;
  if (error || drained_ > kDrainBytes) return End();
  buffer_.clear();
  stream_->ReadBelow(buffer_.prepare(64 * 1024), Bind(&HttpSession::Drain));
}

void HttpSession::Follow(ApiResponse response) {
  const auto set = set_.lock();
  if (!set) return End();
  queue_ = std::move(response.body);
  subscription_ = set->service().SubscribeEvents([weak = weak_from_this()](const EventView& event) {
    if (const auto self = weak.lock()) self->OnEvent(event);
  });
  head_ = http::response<http::empty_body>(http::status::ok, version_);
  head_.set(http::field::content_type, response.content_type);
  head_.keep_alive(false);
  head_.chunked(version_ >= 11);
  head_serializer_.emplace(head_);
  stream_->ExpiresAfter(limits_.request);
  http::async_write_header(*stream_, *head_serializer_, Bind(&HttpSession::OnHead));
}

void HttpSession::OnHead(error_code error, size_t) {
  if (error || ended_) return End();
  streaming_ = true;
  stream_->ExpiresNever();
  buffer_.clear();
  stream_->async_read_some(buffer_.prepare(1), Bind(&HttpSession::OnClientSpoke));
  WriteEvents();
}

// A reader of events has nothing more to say; what it says, or that it goes, ends the stream.
void HttpSession::OnClientSpoke(error_code error, size_t) {
  if (error == asio::error::operation_aborted) return;  // a write has timed out, and its handler comes next
  End();
}

void HttpSession::OnEvent(const EventView& event) {
  if (ended_) return;
  queue_ += EventLine(event);
  if (queue_.size() > limits_.event_queue_bytes) {
    spdlog::warn("api: a reader of /v1/events is {} bytes behind; dropped", queue_.size());
    queue_.clear();
    // Not from inside the service's call: it may be going through its listeners.
    return asio::post(stream_->get_executor(), [self = shared_from_this()] { self->End(); });
  }
  if (streaming_) WriteEvents();
}

void HttpSession::WriteEvents() {
  if (writing_ || queue_.empty() || ended_) return;
  writing_ = true;
  out_ = std::exchange(queue_, {});
  stream_->ExpiresAfter(limits_.request);
  if (version_ >= 11) {
    asio::async_write(*stream_, http::make_chunk(asio::buffer(out_)), Bind(&HttpSession::OnEventsWritten));
  } else {
    asio::async_write(*stream_, asio::buffer(out_), Bind(&HttpSession::OnEventsWritten));
  }
}

void HttpSession::OnEventsWritten(error_code error, size_t) {
  writing_ = false;
  if (error == beast::error::timeout) {
    spdlog::warn("api: a reader of /v1/events took nothing for {} ms; dropped", limits_.request.count());
  }
  if (error || ended_) return End();
  WriteEvents();
}

}  // namespace everport
