#pragma once

// What the listeners' connections share without a stream. Internal to them.

#include <boost/beast/http/message.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <cstddef>

#include "backend/api/routes.h"

namespace everport {

using HttpReply = boost::beast::http::response<boost::beast::http::string_body>;
HttpReply MakeHttpReply(ApiResponse&& response, unsigned version, bool keep_alive);

// Beyond the limit of connections.
ApiResponse TooManyConnections(size_t limit);

// After a refusal the rest of the request is read and thrown away, so that the client gets to see the answer.
inline constexpr std::chrono::seconds kDrainTime{2};
inline constexpr size_t kDrainBytes = 8 * 1024 * 1024;

}  // namespace everport
