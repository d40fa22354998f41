#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "backend/api/service_api.h"

namespace everport {

// The API's routes (docs/openapi.yaml), without sockets: a request becomes calls of the service and one response.
// Control thread.

struct ApiRequest {
  std::string method;  // "GET"
  std::string target;  // "/v1/ports/vm1-net0?x=y"
  std::string body;
};

struct ApiResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;            // empty for 204
  std::string allow;           // of 405: the methods there are
  std::string location;        // of 201: the new thing's target
  bool follow_events = false;  // after the body the reply goes on: EventLine of each event from now on
};

// Calls respond exactly once, before it returns or later, when the service has done what was asked.
void Route(const ApiRequest& request, ServiceApi& service, std::function<void(ApiResponse)> respond);

// An error in the API's form, {"error": "object: cause; mend"}.
ApiResponse ErrorResponse(int status, std::string_view error);
// The HTTP status that stands for a status code: NotFound 404, AlreadyExists 409, …
int HttpStatus(absl::StatusCode code);

// One line of /v1/events, with its newline.
std::string EventLine(const EventView& event);

struct RouteName {
  std::string method, pattern;  // "/v1/ports/{name}"
};
// Every route there is, for the description's test.
std::vector<RouteName> RouteNames();

}  // namespace everport
