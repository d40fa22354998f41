#include "backend/api/http_reply.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace everport {

namespace http = boost::beast::http;

HttpReply MakeHttpReply(ApiResponse&& response, unsigned version, bool keep_alive) {
  HttpReply reply{static_cast<http::status>(response.status), version};
  reply.keep_alive(keep_alive);
  if (!response.allow.empty()) reply.set(http::field::allow, response.allow);
  if (!response.location.empty()) reply.set(http::field::location, response.location);
  if (response.status != 204) {
    reply.set(http::field::content_type, response.content_type);
    reply.body() = std::move(response.body);
    reply.prepare_payload();
  }
  return reply;
}

ApiResponse TooManyConnections(size_t limit) {
  return ErrorResponse(503, absl::StrCat("api: ", limit, " connections are open already; try again later"));
}

}  // namespace everport
