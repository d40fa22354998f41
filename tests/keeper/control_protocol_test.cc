#include "backend/keeper/control_protocol.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace everport {
namespace {

using testing::HasSubstr;

const PortSpec kSpec{"vm1-net0", "/run/vms/vm1.sock", 4, 9000, "everport-1"};

FeatureContract Mine() {
  FeatureContract mine = *FindContract("everport-1");
  mine.name = "mine-1";
  mine.features &= ~(uint64_t{1} << kRingPacked);
  return mine;
}

template <typename T>
T RequestRoundTrip(const T& request) {
  const auto decoded = DecodeRequest(EncodeRequest(request));
  EXPECT_TRUE(decoded.ok()) << decoded.status();
  return decoded.ok() ? std::get<T>(*decoded) : T{};
}

template <typename T>
T MessageRoundTrip(const T& message) {
  const auto decoded = DecodeMessage(EncodeMessage(message));
  EXPECT_TRUE(decoded.ok()) << decoded.status();
  return decoded.ok() ? std::get<T>(*decoded) : T{};
}

TEST(ControlProtocolTest, RequestsSurviveTheWay) {
  EXPECT_EQ(RequestRoundTrip(HelloRequest{1, "a \"b\""}).daemon, "a \"b\"");
  RequestRoundTrip(ListRequest{});
  EXPECT_EQ(RequestRoundTrip(AddRequest{kSpec}).port, kSpec);
  EXPECT_EQ(RequestRoundTrip(RemoveRequest{"vm1"}).name, "vm1");
}

TEST(ControlProtocolTest, PostcopyGoesWithThePortAndItsSession) {
  PortSpec spec = kSpec;
  spec.postcopy = true;
  EXPECT_EQ(RequestRoundTrip(AddRequest{spec}).port, spec);
  EXPECT_FALSE(RequestRoundTrip(AddRequest{kSpec}).port.postcopy);
  const ControlReply list =
      MessageRoundTrip(ControlReply{true, {}, {}, {{spec, SessionState::kRunning, false, "", Postcopy::kListening}}});
  EXPECT_EQ(list.ports[0].postcopy, Postcopy::kListening);
  EXPECT_EQ(list.ports[0].spec, spec);
  EXPECT_EQ(MessageRoundTrip(SessionEvent{"p", SessionState::kRunning, "", Postcopy::kAdvised}).postcopy,
            Postcopy::kAdvised);
  EXPECT_EQ(MessageRoundTrip(SessionEvent{"p", SessionState::kRunning, ""}).postcopy, Postcopy::kNone);
  PortConfig port;
  port.postcopy = true;
  EXPECT_TRUE(SpecOf(port, ContractSet()).postcopy);
  EXPECT_FALSE(DecodeMessage(R"({"event":"session","name":"p","state":"running","reason":"","postcopy":true})").ok());
  EXPECT_FALSE(DecodeMessage(R"({"event":"session","name":"p","state":"running","reason":"","postcopy":"x"})").ok());
}

TEST(ControlProtocolTest, AnOwnProfileGoesWithThePortAndIsLeftOutOfTheList) {
  PortSpec spec = kSpec;
  spec.contract = "mine-1";
  spec.profile = Mine();
  EXPECT_EQ(RequestRoundTrip(AddRequest{spec}).port, spec);
  const ControlReply list = MessageRoundTrip(ControlReply{true, {}, {}, {{spec, SessionState::kWaiting, false, ""}}});
  EXPECT_EQ(list.ports[0].spec.contract, "mine-1");
  EXPECT_FALSE(list.ports[0].spec.profile);
  PortConfig port;
  port.contract = "mine-1";
  EXPECT_EQ(SpecOf(port, ContractSet({Mine()})).profile, Mine());
  port.contract = "everport-1";
  EXPECT_FALSE(SpecOf(port, ContractSet({Mine()})).profile);
}

TEST(ControlProtocolTest, AProfileThatNoContractMayHaveIsRefused) {
  const auto refusal = [](auto change) {
    PortSpec spec = kSpec;
    spec.contract = "mine-1";
    spec.profile = Mine();
    change(spec);
    return std::string(DecodeRequest(EncodeRequest(AddRequest{spec})).status().message());
  };
  EXPECT_THAT(refusal([](PortSpec& s) { s.profile->features &= ~(uint64_t{1} << kVhostLogAll); }),
              HasSubstr("port: profile: \"features\" lacks VHOST_F_LOG_ALL"));
  EXPECT_THAT(refusal([](PortSpec& s) { s.profile->features |= uint64_t{1} << 62; }), HasSubstr("bit 62 is unknown"));
  EXPECT_THAT(refusal([](PortSpec& s) { s.contract = "everport-1"; }),
              HasSubstr("profile: \"name\" is everport's own"));
  EXPECT_THAT(refusal([](PortSpec& s) { s.profile->max_ring_size = 0; }),
              HasSubstr("\"max_ring_size\" 0 is out of range"));
}

TEST(ControlProtocolTest, MessagesSurviveTheWay) {
  const ControlReply list = MessageRoundTrip(
      ControlReply{true, {}, "/run/everport/keeper/x.sock", {{kSpec, SessionState::kRunning, true, "why"}}});
  EXPECT_TRUE(list.ok);
  EXPECT_EQ(list.socket, "/run/everport/keeper/x.sock");
  ASSERT_EQ(list.ports.size(), 1u);
  EXPECT_EQ(list.ports[0].spec, kSpec);
  EXPECT_EQ(list.ports[0].state, SessionState::kRunning);
  EXPECT_TRUE(list.ports[0].daemon_attached);
  EXPECT_EQ(list.ports[0].reason, "why");
  EXPECT_EQ(MessageRoundTrip(ControlReply{false, "no", {}, {}}).error, "no");
  const SessionEvent event = MessageRoundTrip(SessionEvent{"p", SessionState::kConnected, "r"});
  EXPECT_EQ(event.name, "p");
  EXPECT_EQ(event.state, SessionState::kConnected);
  EXPECT_EQ(event.reason, "r");
  EXPECT_EQ(MessageRoundTrip(AnnounceEvent{"p", "52:54:00:00:00:02"}).mac, "52:54:00:00:00:02");
}

TEST(ControlProtocolTest, AReplyOfAnotherKeeperWithMoreInItIsUnderstood) {
  const auto reply = DecodeMessage(R"({"ok":true,"version":1,"more":[1,2]})");
  ASSERT_TRUE(reply.ok());
  EXPECT_TRUE(std::get<ControlReply>(*reply).ok);
}

struct Bad {
  const char* json;
  const char* says;
};

TEST(ControlProtocolTest, BadRequestsAreRefusedWithTheCause) {
  const Bad bad[] = {
      {"", "not JSON"},
      {"[]", "not a JSON object"},
      {"{}", "\"op\" is missing"},
      {R"({"op":7})", "\"op\" is not a string"},
      {R"({"op":"fly"})", "none of hello"},
      {R"({"op":"hello","daemon":"a"})", "\"version\" is missing"},
      {R"({"op":"hello","version":"1","daemon":"a"})", "\"version\" is not a number"},
      {R"({"op":"hello","version":99999999999,"daemon":"a"})", "\"version\" is not a number in range"},
      {R"({"op":"add"})", "\"port\" is missing"},
      {R"({"op":"add","port":7})", "\"port\" is not an object"},
      {R"({"op":"add","port":{}})", "port: \"name\" is missing"},
      {R"({"op":"add","port":{"name":"../x","socket":"/s","queue_pairs":1,"mtu":1500,"contract":"c"}})",
       "not a port's name"},
      {R"({"op":"add","port":{"name":"x","socket":"s","queue_pairs":1,"mtu":1500,"contract":"c"}})", "absolute path"},
      {R"({"op":"add","port":{"name":"x","socket":"/s","queue_pairs":17,"mtu":1500,"contract":"c"}})", "1 to 16"},
      {R"({"op":"add","port":{"name":"x","socket":"/s","queue_pairs":-1,"mtu":1500,"contract":"c"}})", "in range"},
      {R"({"op":"add","port":{"name":"x","socket":"/s","queue_pairs":1,"mtu":9217,"contract":"c"}})", "68 to 9216"},
      {R"({"op":"remove"})", "\"name\" is missing"},
  };
  for (const Bad& b : bad) {
    const auto request = DecodeRequest(b.json);
    ASSERT_FALSE(request.ok()) << b.json;
    EXPECT_THAT(std::string(request.status().message()), HasSubstr(b.says)) << b.json;
  }
  EXPECT_FALSE(DecodeRequest(std::string(kMaxControlMessage + 1, ' ')).ok());
  EXPECT_FALSE(DecodeRequest(std::string(10'000, '[')).ok());  // as deep as it is long
}

TEST(ControlProtocolTest, BadMessagesAreRefused) {
  for (const char* json : {"{}", R"({"ok":1})", R"({"ok":false})", R"({"ok":true,"ports":{}})",
                           R"({"ok":true,"ports":[7]})", R"({"ok":true,"ports":[{}]})", R"({"event":"boom"})",
                           R"({"event":"session","name":"p","state":"odd","reason":""})"})
    EXPECT_FALSE(DecodeMessage(json).ok()) << json;
}

}  // namespace
}  // namespace everport
