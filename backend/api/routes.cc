#include "backend/api/routes.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <climits>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "backend/api/json_views.h"
#include "backend/api/metrics.h"
#include "migration/contract_comparison.h"
#include "migration/contract_document.h"

namespace everport {
namespace {

namespace json = boost::json;

// One request on its way through a handler. Copyable: asynchronous handlers keep a copy.
struct Call {
  ServiceApi* service;
  std::function<void(ApiResponse)> respond;
  std::string body;
  std::string name;                          // what {name} matched
  std::map<std::string, std::string> query;  // as written; no name or value of ours needs percent-encoding
};

void RespondJson(const Call& call, const json::value& value, int status = 200) {
  ApiResponse response;
  response.status = status;
  response.body = json::serialize(value) + "\n";
  call.respond(std::move(response));
}

void RespondError(const Call& call, const absl::Status& status) {
  call.respond(ErrorResponse(HttpStatus(status.code()), std::string(status.message())));
}

// The port as it is now. Adding and switching answer with it, so that the client sees what came of it.
void RespondPort(const Call& call, int status) {
  const auto port = call.service->Port(call.name);
  if (!port.ok()) return RespondError(call, port.status());
  ApiResponse response;
  response.status = status;
  response.body = json::serialize(PortJson(*port)) + "\n";
  if (status == 201) response.location = "/v1/ports/" + call.name;
  call.respond(std::move(response));
}

void ListPorts(const Call& call) {
  json::array list;
  for (const PortView& port : call.service->Ports()) list.push_back(PortJson(port));
  RespondJson(call, list);
}

void AddPort(const Call& call) {
  auto port = PortFromJson(call.body, &call.service->contracts());
  if (!port.ok()) return RespondError(call, port.status());
  Call later = call;
  later.name = port->name;
  call.service->AddPort(*std::move(port), [later = std::move(later)](absl::Status status) {
    if (!status.ok()) return RespondError(later, status);
    RespondPort(later, 201);
  });
}

void GetPort(const Call& call) {
  RespondPort(call, 200);
}

void RemovePort(const Call& call) {
  call.service->RemovePort(call.name, [call](absl::Status status) {
    if (!status.ok()) return RespondError(call, status);
    ApiResponse response;
    response.status = 204;
    call.respond(std::move(response));
  });
}

// {"index": N}
absl::StatusOr<int> ReadIndex(const Call& call) {
  const std::string object = absl::StrCat("port ", call.name, ": path: ");
  const std::string mend = "; write {\"index\": 0}, 0 being the first uplink, -1 for the order of the configuration";
  json::error_code error;
  const json::value value = json::parse(call.body, error);
  if (error) return absl::InvalidArgumentError(absl::StrCat(object, "not valid JSON: ", error.message(), mend));
  const json::object* fields = value.if_object();
  const json::value* index = fields ? fields->if_contains("index") : nullptr;
  if (!index || fields->size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat(object, "not an object with \"index\" alone", mend));
  }
  if (!index->is_int64() || index->get_int64() < -1 || index->get_int64() > INT_MAX) {
    return absl::InvalidArgumentError(absl::StrCat(object, "index is not a number from -1 on", mend));
  }
  return static_cast<int>(index->get_int64());
}

void SwitchPath(const Call& call) {
  const auto index = ReadIndex(call);
  if (!index.ok()) return RespondError(call, index.status());
  call.service->SwitchPath(call.name, *index, [call](absl::Status status) {
    if (!status.ok()) return RespondError(call, status);
    RespondPort(call, 200);
  });
}

void ShowContracts(const Call& call) {
  if (const auto name = call.query.find("name"); name != call.query.end()) {
    const auto contract = call.service->contracts().Find(name->second);
    if (!contract.ok()) return RespondError(call, contract.status());
    return RespondJson(call, ContractToJson(*contract));
  }
  json::array list;
  for (const FeatureContract& contract : call.service->contracts().all()) list.push_back(ContractToJson(contract));
  RespondJson(call, list);
}

// The guest is here: what would it lose under the document?
void CheckAgainst(const Call& call, const ContractCheckRequest& asked) {
  const auto port = call.service->Port(asked.port);
  if (!port.ok()) return RespondError(call, port.status());
  const auto here = call.service->contracts().Find(port->config.contract);
  if (!here.ok()) return RespondError(call, here.status());
  const FeatureContract offered = WithPostcopy(*here, port->config.postcopy);
  RespondJson(call, ContractVerdict(here->name, CompareContracts(offered, NeedsOf(*port), asked.contract)));
}

// The guest may come here: what would it lose?
void CheckComing(const Call& call, const ContractCheckRequest& asked) {
  const ContractSet& contracts = call.service->contracts();
  const auto there = contracts.Find(asked.contract.name);
  RespondJson(call, ContractVerdict(asked.contract.name,
                                    there.ok() ? CompareContracts(asked.contract, asked.needs, *there)
                                               : std::vector{MissingContract(asked.contract.name, contracts.Names())}));
}

void CheckContract(const Call& call) {
  const auto asked = ParseContractCheck(call.body);
  if (!asked.ok()) return call.respond(ErrorResponse(400, absl::StrCat("contract check: ", asked.status().message())));
  asked->port.empty() ? CheckComing(call, *asked) : CheckAgainst(call, *asked);
}

void ShowPlacement(const Call& call) {
  json::array list;
  for (const PlacementRow& row : call.service->Placement()) list.push_back(PlacementJson(row));
  RespondJson(call, list);
}

void ShowHealth(const Call& call) {
  const HealthView health = call.service->Health();
  RespondJson(call, HealthJson(health, call.service->daemon_config()), health.ready ? 200 : 503);
}

// The id after which events are wanted: all that are kept without ?since, none of them with ?since=now.
std::optional<uint64_t> Since(const Call& call) {
  const auto since = call.query.find("since");
  if (since == call.query.end()) return 0;
  uint64_t id = 0;
  if (since->second == "now") return UINT64_MAX;
  return absl::SimpleAtoi(since->second, &id) ? std::optional(id) : std::nullopt;
}

void ShowEvents(const Call& call) {
  const auto since = Since(call);
  if (!since) {
    return call.respond(ErrorResponse(400, "events: since is neither \"now\" nor an event's id; leave it out for all"));
  }
  const auto follow = call.query.find("follow");
  const std::string wanted = follow == call.query.end() ? "" : follow->second;
  if (!wanted.empty() && wanted != "yes" && wanted != "no") {
    return call.respond(ErrorResponse(400, "events: follow is neither \"yes\" nor \"no\"; \"no\" ends after the last"));
  }
  ApiResponse response;
  response.content_type = "application/x-ndjson";
  for (const EventView& event : call.service->RecentEvents()) {
    if (event.id > *since) response.body += EventLine(event);
  }
  response.follow_events = wanted != "no";
  call.respond(std::move(response));
}

void ShowMetrics(const Call& call) {
  ApiResponse response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  response.body = MetricsText(*call.service);
  call.respond(std::move(response));
}

void NotYet(const Call& call, const char* what) {
  call.respond(ErrorResponse(501, absl::StrCat(what, " is not available yet in this version")));
}
void Handover(const Call& call) {
  NotYet(call, "handover");
}
void Drain(const Call& call) {
  NotYet(call, "drain");
}

struct Entry {
  const char* method;
  const char* pattern;
  void (*handle)(const Call&);
};

constexpr Entry kRoutes[] = {
    {"GET", "/v1/ports", ListPorts},
    {"POST", "/v1/ports", AddPort},
    {"GET", "/v1/ports/{name}", GetPort},
    {"DELETE", "/v1/ports/{name}", RemovePort},
    {"POST", "/v1/ports/{name}/path", SwitchPath},
    {"GET", "/v1/contract", ShowContracts},
    {"POST", "/v1/contract/check", CheckContract},
    {"GET", "/v1/placement", ShowPlacement},
    {"POST", "/v1/handover", Handover},
    {"POST", "/v1/drain", Drain},
    {"GET", "/v1/events", ShowEvents},
    {"GET", "/v1/health", ShowHealth},
    {"GET", "/metrics", ShowMetrics},
};

// Whether path is of this pattern; name gets what stands for {name}.
bool Matches(std::string_view pattern, const std::vector<std::string>& path, std::string& name) {
  const std::vector<std::string> parts = absl::StrSplit(absl::string_view(pattern.data(), pattern.size()), '/');
  if (parts.size() != path.size()) return false;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i] == "{name}" && !path[i].empty()) {
      name = path[i];
    } else if (parts[i] != path[i]) {
      return false;
    }
  }
  return true;
}

std::map<std::string, std::string> ParseQuery(absl::string_view text) {
  std::map<std::string, std::string> query;
  for (absl::string_view item : absl::StrSplit(text, '&', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> pair = absl::StrSplit(item, absl::MaxSplits('=', 1));
    query.insert(pair);
  }
  return query;
}

}  // namespace

void Route(const ApiRequest& request, ServiceApi& service, std::function<void(ApiResponse)> respond) {
  // RFC 9112, 3: both are graphic ASCII. Errors quote them, and their JSON must be text.
  const std::string line = absl::StrCat(request.method, request.target);
  if (!std::all_of(line.begin(), line.end(),
                   [](char c) { return absl::ascii_isgraph(static_cast<unsigned char>(c)); })) {
    return respond(ErrorResponse(400, "request: method or target is not printable ASCII; percent-encode it"));
  }
  const std::pair<std::string, std::string> target = absl::StrSplit(request.target, absl::MaxSplits('?', 1));
  const std::vector<std::string> path = absl::StrSplit(target.first, '/');
  Call call{&service, std::move(respond), request.body, "", ParseQuery(target.second)};
  std::vector<std::string> methods;
  for (const Entry& entry : kRoutes) {
    if (!Matches(entry.pattern, path, call.name)) continue;
    if (request.method == entry.method) return entry.handle(call);
    methods.push_back(entry.method);
  }
  if (methods.empty()) {
    return call.respond(ErrorResponse(
        404, absl::StrCat(target.first, ": no such route; those there are begin with /v1/ (docs/openapi.yaml)")));
  }
  ApiResponse response = ErrorResponse(
      405, absl::StrCat(target.first, ": ", request.method, " is not possible; use ", absl::StrJoin(methods, " or ")));
  response.allow = absl::StrJoin(methods, ", ");
  call.respond(std::move(response));
}

ApiResponse ErrorResponse(int status, std::string_view error) {
  ApiResponse response;
  response.status = status;
  response.body = json::serialize(json::object{{"error", json::string(error.data(), error.size())}}) + "\n";
  return response;
}

int HttpStatus(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
      return 200;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return 400;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAborted:
      return 409;
    case absl::StatusCode::kUnimplemented:
      return 501;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

std::string EventLine(const EventView& event) {
  return json::serialize(EventJson(event)) + "\n";
}

std::vector<RouteName> RouteNames() {
  std::vector<RouteName> names;
  for (const Entry& entry : kRoutes) names.push_back({entry.method, entry.pattern});
  return names;
}

}  // namespace everport
