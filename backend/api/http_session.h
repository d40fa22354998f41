#pragma once

// One client of the API, on whatever stream: a Unix socket, or TLS over TCP. Internal to the listeners. Control thread.

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/serializer.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/system/error_code.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "backend/api/http_reply.h"
#include "backend/api/routes.h"
#include "backend/api/session_set.h"
#include "backend/tls/any_stream.h"

namespace everport {

// One client. Waits for a request, reads it, routes it, writes the reply, and so on; or ends as a stream of events.
class HttpSession : public Session, public std::enable_shared_from_this<HttpSession> {
 public:
  using error_code = boost::system::error_code;
  HttpSession(const std::shared_ptr<SessionSet>& set, std::unique_ptr<AnyStream> stream)
      : set_(set), limits_(set->limits()), stream_(std::move(stream)) {}

  void AwaitRequest();
  // Answers so whatever the client asks, and ends.
  void TurnAway(ApiResponse response) { Respond(std::move(response)); }
  // Further handlers come with an error and do nothing.
  void End() override;

 private:
  auto Bind(void (HttpSession::*handler)(error_code, size_t));
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
  const std::unique_ptr<AnyStream> stream_;
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

}  // namespace everport
