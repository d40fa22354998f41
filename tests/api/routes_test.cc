#include "backend/api/routes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <fstream>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "backend/api/json_views.h"
#include "migration/contract_document.h"
#include "tests/api/fake_service.h"

namespace everport {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr char kNewPort[] =
    R"({"name":"vm9","socket":"/run/vms/vm9.sock","uplink":[{"kind":"tap","device":"ep-vm9"}]})";

class RoutesTest : public testing::Test {
 protected:
  RoutesTest() { fakes::FillWithExample(service); }

  ApiResponse Do(const std::string& method, const std::string& target, const std::string& body = "") {
    std::optional<ApiResponse> got;
    Route({method, target, body}, service, [&](ApiResponse response) {
      EXPECT_FALSE(got.has_value()) << "answered twice";
      got = std::move(response);
    });
    EXPECT_TRUE(got.has_value()) << method << " " << target;
    return got.value_or(ErrorResponse(0, "no answer"));
  }
  boost::json::value Json(const ApiResponse& response) {
    EXPECT_EQ(response.content_type, "application/json");
    return boost::json::parse(response.body);
  }
  std::string Error(const ApiResponse& response) { return std::string(Json(response).at("error").as_string()); }

  fakes::FakeService service;
};

TEST_F(RoutesTest, PortsHaveTheNamesThatTheContractLists) {
  const ApiResponse response = Do("GET", "/v1/ports");
  EXPECT_EQ(response.status, 200);
  const auto ports = Json(response).as_array();
  ASSERT_THAT(ports, SizeIs(2));
  const auto& port = ports[0].as_object();
  EXPECT_EQ(port.at("name"), "vm1-net0");
  EXPECT_EQ(port.at("state"), "running");
  EXPECT_EQ(port.at("path").at("index"), 1);
  EXPECT_EQ(port.at("path").at("kind"), "tap");
  EXPECT_EQ(port.at("path").at("mode"), "relay");
  EXPECT_EQ(port.at("path").at("chosen"), nullptr);
  EXPECT_EQ(port.at("rx_packets"), 1234);
  EXPECT_EQ(port.at("tx_packets"), 500);
  EXPECT_EQ(port.at("rx_bytes"), 1234567);
  EXPECT_EQ(port.at("tx_bytes"), 64000);
  EXPECT_EQ(port.at("drops"), 15);
  EXPECT_EQ(port.at("drops_by_cause").at("guest_ring_full"), 1);
  EXPECT_EQ(port.at("drops_by_cause").at("uplink_full"), 2);
  EXPECT_EQ(port.at("drops_by_cause").at("malformed"), 3);
  EXPECT_EQ(port.at("drops_by_cause").at("no_path"), 4);
  EXPECT_EQ(port.at("drops_by_cause").at("uplink_refused"), 5);
  EXPECT_EQ(port.at("numa_node"), 0);
  EXPECT_EQ(port.at("poller"), 1);
  EXPECT_EQ(ports[1].at("path").at("index"), -1);
}

TEST_F(RoutesTest, OnePortIsTheSameObjectAsInTheList) {
  EXPECT_EQ(Json(Do("GET", "/v1/ports/vm1-net0")), Json(Do("GET", "/v1/ports")).at(0));
  EXPECT_EQ(Do("GET", "/v1/ports/vm7").status, 404);
  EXPECT_THAT(Error(Do("GET", "/v1/ports/vm7")), HasSubstr("vm7"));
}

TEST_F(RoutesTest, AddedPortIsThereAndIsAnsweredWithItsLocation) {
  const ApiResponse response = Do("POST", "/v1/ports", kNewPort);
  EXPECT_EQ(response.status, 201) << response.body;
  EXPECT_EQ(response.location, "/v1/ports/vm9");
  EXPECT_EQ(Json(response).at("name"), "vm9");
  ASSERT_THAT(service.ports, SizeIs(3));
  EXPECT_EQ(service.ports[2].config.uplinks[0].device, "ep-vm9");
}

TEST_F(RoutesTest, PortThatIsThereAlreadyIsAConflict) {
  Do("POST", "/v1/ports", kNewPort);
  EXPECT_EQ(Do("POST", "/v1/ports", kNewPort).status, 409);
  EXPECT_THAT(service.ports, SizeIs(3));
}

TEST_F(RoutesTest, BadBodiesOfAddAreRefusedAndChangeNothing) {
  for (const char* body : {"", "{", "[]", "null", "{\"name\":1}", "{\"name\":\"x\"}", "\xff\xfe",
                           R"({"name":"vm9","socket":"/s","uplink":[],"surplus":1})"}) {
    const ApiResponse response = Do("POST", "/v1/ports", body);
    EXPECT_EQ(response.status, 400) << body;
    EXPECT_NE(Error(response), "") << body;
  }
  EXPECT_THAT(service.ports, SizeIs(2));
}

TEST_F(RoutesTest, AnswerWaitsForTheService) {
  service.hold = true;
  std::optional<ApiResponse> got;
  Route({"POST", "/v1/ports", kNewPort}, service, [&](ApiResponse response) { got = std::move(response); });
  EXPECT_FALSE(got.has_value());
  ASSERT_THAT(service.held, SizeIs(1));
  service.held[0]();
  ASSERT_TRUE(got.has_value());
  EXPECT_EQ(got->status, 201);
}

TEST_F(RoutesTest, RemovedPortIsGone) {
  EXPECT_EQ(Do("DELETE", "/v1/ports/vm2").status, 204);
  EXPECT_EQ(Do("DELETE", "/v1/ports/vm2").body, Do("GET", "/v1/ports/vm2").body);
  EXPECT_EQ(Do("DELETE", "/v1/ports/vm2").status, 404);
}

TEST_F(RoutesTest, PathSwitches) {
  const ApiResponse response = Do("POST", "/v1/ports/vm1-net0/path", R"({"index":0})");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(Json(response).at("path").at("index"), 0);
  EXPECT_EQ(service.ports[0].path.kind, "vf");
  EXPECT_EQ(Do("POST", "/v1/ports/vm1-net0/path", R"({"index":2})").status, 400);
  EXPECT_EQ(Do("POST", "/v1/ports/vm7/path", R"({"index":0})").status, 404);
}

TEST_F(RoutesTest, BadBodiesOfPathAreRefused) {
  for (const char* body : {"", "0", "{}", R"({"index":-2})", R"({"index":"0"})", R"({"index":0.5})",
                           R"({"index":99999999999})", R"({"index":0,"more":1})", R"({"index":0)"}) {
    const ApiResponse response = Do("POST", "/v1/ports/vm1-net0/path", body);
    EXPECT_EQ(response.status, 400) << body;
    EXPECT_THAT(Error(response), HasSubstr("port vm1-net0: path: ")) << body;
  }
  EXPECT_EQ(service.ports[0].path.index, 1);
}

TEST_F(RoutesTest, HealthIsUnavailableWhenNotReady) {
  EXPECT_EQ(Do("GET", "/v1/health").status, 200);
  service.health = {
      .ready = false, .keeper = "not connected: no such file", .problems = {"keeper: start it"}, .startup = {}};
  const ApiResponse response = Do("GET", "/v1/health");
  EXPECT_EQ(response.status, 503);
  const auto health = Json(response);
  EXPECT_EQ(health.at("ready"), false);
  EXPECT_EQ(health.at("keeper"), "not connected: no such file");
  EXPECT_EQ(health.at("problems").at(0), "keeper: start it");
  EXPECT_EQ(health.at("version"), EVERPORT_VERSION);
}

TEST_F(RoutesTest, HealthTellsWhereTheStartWent) {
  const auto startup = Json(Do("GET", "/v1/health")).at("startup");
  EXPECT_EQ(startup.at("eal_ms"), 120.5);
  EXPECT_EQ(startup.at("uplinks_ms"), 31.25);
  EXPECT_EQ(startup.at("replay_ms"), 4.0);
  EXPECT_EQ(startup.at("total_ms"), 200.0);
}

TEST_F(RoutesTest, EventsFollowUnlessTheyShallNot) {
  const ApiResponse all = Do("GET", "/v1/events");
  EXPECT_EQ(all.content_type, "application/x-ndjson");
  EXPECT_TRUE(all.follow_events);
  EXPECT_EQ(all.body, EventLine(service.events[0]) + EventLine(service.events[1]));
  EXPECT_TRUE(Do("GET", "/v1/events?follow").follow_events);
  EXPECT_FALSE(Do("GET", "/v1/events?follow=no").follow_events);
  EXPECT_EQ(Do("GET", "/v1/events?follow=perhaps").status, 400);
}

TEST_F(RoutesTest, EventsSinceOne) {
  EXPECT_EQ(Do("GET", "/v1/events?since=now").body, "");
  EXPECT_EQ(Do("GET", "/v1/events?since=1&follow=no").body, EventLine(service.events[1]));
  EXPECT_EQ(Do("GET", "/v1/events?since=yesterday").status, 400);
}

TEST_F(RoutesTest, EventIsOneLine) {
  const std::string line = EventLine({7, 1'000'001, "vm1", "state", "two\nlines"});
  EXPECT_EQ(line, R"({"id":7,"time_unix_us":1000001,"port":"vm1","type":"state","message":"two\nlines"})"
                  "\n");
}

TEST_F(RoutesTest, ContractsByNameAndAll) {
  const auto all = Json(Do("GET", "/v1/contract"));
  EXPECT_THAT(all.as_array(), SizeIs(ContractNames().size()));
  const auto one = Json(Do("GET", "/v1/contract?name=everport-1"));
  EXPECT_EQ(one.at("name"), "everport-1");
  EXPECT_EQ(one.at("max_mtu"), 9216);
  EXPECT_THAT(boost::json::serialize(one.at("features")), HasSubstr("VIRTIO_F_VERSION_1"));
  EXPECT_THAT(boost::json::serialize(one.at("protocol_features")), HasSubstr("REPLY_ACK"));
  EXPECT_EQ(Do("GET", "/v1/contract?name=nope").status, 404);
}

// An own profile: everport-1 without what VIRTIO_NET_F_MQ gives.
FeatureContract Mine() {
  FeatureContract mine = *FindContract("everport-1");
  mine.name = "mine-1";
  mine.features &= ~(uint64_t{1} << kNetMq);
  mine.max_queue_pairs = 1;
  return mine;
}

TEST_F(RoutesTest, OwnContractsAreListedAndPortsMayHaveThem) {
  const std::string body = R"({"name":"vm9","socket":"/s","contract":"mine-1","uplink":[{"kind":"tap","device":"t"}]})";
  EXPECT_EQ(Do("POST", "/v1/ports", body).status, 400);
  service.known_contracts = ContractSet({Mine()});
  EXPECT_EQ(Json(Do("GET", "/v1/contract")).at(2).at("name"), "mine-1");
  EXPECT_EQ(*ContractFromJson(Json(Do("GET", "/v1/contract?name=mine-1")), ""), Mine());
  EXPECT_EQ(Do("POST", "/v1/ports", body).status, 201);
}

TEST_F(RoutesTest, PortTellsWhatItsGuestNeeds) {
  service.ports[0].ring_size = 1024;
  const auto needs = Json(Do("GET", "/v1/ports/vm1-net0")).at("needs");
  EXPECT_EQ(boost::json::serialize(needs),
            R"({"mtu":1500,"queue_pairs":2,"features":["VIRTIO_NET_F_MRG_RXBUF","VIRTIO_F_VERSION_1"],)"
            R"("ring_layout":"split","ring_size":1024})");
  EXPECT_EQ(boost::json::serialize(Json(Do("GET", "/v1/ports/vm2")).at("needs")),
            R"({"mtu":1500,"queue_pairs":1,"features":null,"ring_layout":null,"ring_size":null})");
}

// As everportctl does it: document and needs of the source's API, verdict of the destination's.
TEST_F(RoutesTest, ContractCheckAtTheDestination) {
  const std::string body = ContractCheckBody(Json(Do("GET", "/v1/contract?name=everport-1")),
                                             Json(Do("GET", "/v1/ports/vm1-net0")).at("needs"));
  EXPECT_EQ(Do("POST", "/v1/contract/check", body).body, R"({"compatible":true,"contract":"everport-1","findings":[]})"
                                                         "\n");
  const auto unknown =
      Json(Do("POST", "/v1/contract/check", ContractCheckBody(ContractToJson(Mine()), NeedsToJson(GuestNeeds{}))));
  EXPECT_EQ(unknown.at("compatible"), false);
  EXPECT_EQ(unknown.at("contract"), "mine-1");
  EXPECT_EQ(unknown.at("findings").at(0).at("field"), "name");
  EXPECT_THAT(std::string(unknown.at("findings").at(0).at("mend").as_string()), HasSubstr("[[contract]] mine-1"));
  service.known_contracts = ContractSet({Mine()});
  EXPECT_EQ(Json(Do("POST", "/v1/contract/check", ContractCheckBody(ContractToJson(Mine()), NeedsToJson(GuestNeeds{}))))
                .at("compatible"),
            true);
}

TEST_F(RoutesTest, ContractCheckOfAPortAgainstADocument) {
  const auto check = [&](const std::string& port, const FeatureContract& against) {
    return Do("POST", "/v1/contract/check",
              boost::json::serialize(boost::json::object{{"port", port}, {"against", ContractToJson(against)}}));
  };
  EXPECT_EQ(Json(check("vm1-net0", *FindContract("everport-1"))).at("compatible"), true);
  const auto verdict = Json(check("vm1-net0", *FindContract("minimal-1")));
  EXPECT_EQ(verdict.at("compatible"), false);  // it has two queue pairs
  EXPECT_EQ(verdict.at("contract"), "everport-1");
  EXPECT_EQ(check("vm7", Mine()).status, 404);
}

TEST_F(RoutesTest, BadContractChecksAreRefusedByField) {
  const std::pair<const char*, const char*> bad[] = {
      {"", "contract check: not valid JSON"},
      {"{}", "neither form, or both"},
      {R"({"port":"vm1-net0"})", "against: is missing"},
      {R"({"document":{"format":2},"needs":{}})",
       "document.format: the document has format 2 and this everport reads format 1; upgrade everport on this host"},
      {R"({"port":"vm1-net0","against":{"format":1,"name":7}})", "against.name: is the number 7"},
  };
  for (const auto& [body, says] : bad) {
    const ApiResponse response = Do("POST", "/v1/contract/check", body);
    EXPECT_EQ(response.status, 400) << body;
    EXPECT_THAT(Error(response), HasSubstr(says)) << body;
  }
}

TEST_F(RoutesTest, PlacementIsListed) {
  const auto rows = Json(Do("GET", "/v1/placement"));
  EXPECT_EQ(rows.at(0).at("port"), "vm1-net0");
  EXPECT_EQ(rows.at(0).at("poller"), 1);
  EXPECT_EQ(rows.at(0).at("note"), "local");
}

TEST_F(RoutesTest, WhatComesLaterSaysSo) {
  for (const char* target : {"/v1/handover", "/v1/drain"}) {
    const ApiResponse response = Do("POST", target, "{}");
    EXPECT_EQ(response.status, 501) << target;
    EXPECT_THAT(Error(response), HasSubstr("is not available yet in this version"));
  }
}

TEST_F(RoutesTest, UnknownRoutesAndMethods) {
  for (const char* target :
       {"/", "", "/v1", "/v1/port", "/v1/ports/", "/v1/ports/a/b", "/v2/ports", "*", "/v1/ports/a/path/"}) {
    EXPECT_EQ(Do("GET", target).status, 404) << target;
  }
  const ApiResponse response = Do("PUT", "/v1/ports");
  EXPECT_EQ(response.status, 405);
  EXPECT_EQ(response.allow, "GET, POST");
  EXPECT_EQ(Do("DELETE", "/metrics").allow, "GET");
}

TEST_F(RoutesTest, ErrorIsJsonEvenForATargetThatIsNoText) {
  EXPECT_NE(Error(Do("GET", "/\xff\xc3(")), "");
}

TEST(HttpStatusTest, OfEachCode) {
  EXPECT_EQ(HttpStatus(absl::StatusCode::kOk), 200);
  EXPECT_EQ(HttpStatus(absl::StatusCode::kInvalidArgument), 400);
  EXPECT_EQ(HttpStatus(absl::StatusCode::kOutOfRange), 400);
  EXPECT_EQ(HttpStatus(absl::StatusCode::kNotFound), 404);
  EXPECT_EQ(HttpStatus(absl::StatusCode::kAlreadyExists), 409);
  EXPECT_EQ(HttpStatus(absl::StatusCode::kFailedPrecondition), 409);
  EXPECT_EQ(HttpStatus(absl::StatusCode::kUnimplemented), 501);
  EXPECT_EQ(HttpStatus(absl::StatusCode::kUnavailable), 503);
  EXPECT_EQ(HttpStatus(absl::StatusCode::kInternal), 500);
}

// docs/openapi.yaml, read by its indentation: two spaces before a path, four before a method.
TEST(OpenApiTest, DescribesEveryRouteAndNoOther) {
  std::ifstream file(OPENAPI_YAML);
  ASSERT_TRUE(file) << OPENAPI_YAML;
  std::set<std::string> described, routes;
  std::string path;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("  /")) path = line.substr(2, line.rfind(':') - 2);
    for (const auto& [key, method] :
         {std::pair("    get:", "GET"), {"    post:", "POST"}, {"    delete:", "DELETE"}, {"    put:", "PUT"}}) {
      if (line.starts_with(key)) described.insert(absl::StrCat(method, " ", path));
    }
  }
  for (const RouteName& route : RouteNames()) routes.insert(absl::StrCat(route.method, " ", route.pattern));
  EXPECT_EQ(described, routes);
}

}  // namespace
}  // namespace everport
