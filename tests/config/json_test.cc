#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/config/config.h"

namespace everport {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Refusal(const std::string& json) {
  const auto port = PortFromJson(json);
  return port.ok() ? "accepted" : std::string(port.status().message());
}

TEST(PortJson, HasTheKeysOfTheFile) {
  PortConfig port;
  port.name = "vm1";
  port.socket = "/run/vm1.sock";
  port.mac = "52:54:00:00:00:02";
  port.uplinks = {{UplinkKind::kTap, "t0", "br0"}, {UplinkKind::kPort, "vm2", ""}};
  EXPECT_EQ(PortToJson(port),
            R"({"name":"vm1","socket":"/run/vm1.sock","mac":"52:54:00:00:00:02","queue_pairs":1,"mtu":1500,)"
            R"("contract":"everport-1","failback_delay_ms":5000,"uplink":[)"
            R"({"kind":"tap","device":"t0","bridge":"br0"},{"kind":"port","device":"vm2"}]})");
}

TEST(PortJson, RoundTripKeepsEveryField) {
  PortConfig port;
  port.name = "vm1";
  port.socket = "/run/\"v\\m\"\x01\xc3\xa9.sock";
  port.mac = "02:00:00:00:00:02";
  port.queue_pairs = 16;
  port.mtu = 68;
  port.failback_delay_ms = 4294967295;
  port.postcopy = true;
  port.queue_pairs = 1;
  port.uplinks = {{UplinkKind::kVdev, "net_memif0,role=server", ""}, {UplinkKind::kTap, "t0", "br0"}};
  const auto back = PortFromJson(PortToJson(port));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, port);
}

TEST(PortJson, LeftOutKeysAreTheDefaults) {
  const auto port = PortFromJson(R"({"name":"vm1","socket":"/s","uplink":[{"kind":"vdev","device":"net_null0"}]})");
  ASSERT_TRUE(port.ok()) << port.status();
  EXPECT_EQ(port->mtu, 1500);
  EXPECT_EQ(port->contract, "everport-1");
  EXPECT_THAT(port->mac, StartsWith("52:54:00:"));
}

TEST(PortJsonError, NamesPortKeyCauseAndMend) {
  EXPECT_EQ(Refusal(R"({"name":"vm1","socket":"/s","uplink":[{"kind":"tap","device":"a b"}]})"),
            "port vm1: uplink[0].device: \"a b\" is not a network interface name; use 1 to 15 printable characters "
            "without '/' and ':'");
  EXPECT_EQ(Refusal(R"({"name":"vm1","mtuu":1})"), "port vm1: mtuu: unknown key; did you mean mtu?");
  EXPECT_EQ(Refusal(R"({"name":"vm1","mtu":null})"),
            "port vm1: mtu: is null where an integer is wanted; write an integer");
  EXPECT_EQ(Refusal(R"({"name":"vm1","mtu":18446744073709551615})"),
            "port vm1: mtu: 18446744073709551615 is out of range; use 68 to 9216");
  EXPECT_THAT(Refusal(R"({"name":"../x"})"), StartsWith("port: name: \"../x\" is not a port name; "));
  EXPECT_THAT(Refusal(R"({"name":["x"]})"), StartsWith("port: name: is a list where a string is wanted"));
}

TEST(PortJsonError, MalformedOrOfAnotherShape) {
  EXPECT_THAT(Refusal("{"), StartsWith("port: not valid JSON: "));
  EXPECT_THAT(Refusal(""), StartsWith("port: not valid JSON: "));
  EXPECT_THAT(Refusal("[]"), StartsWith("port: is a list where an object is wanted; "));
  EXPECT_THAT(Refusal(std::string(100000, '[')), StartsWith("port: not valid JSON: "));
  EXPECT_THAT(Refusal("{\"name\":\"\xff\"}"), StartsWith("port: not valid JSON: "));
}

TEST(PortJson, AVdpaDeviceMayHaveItsDriversArguments) {
  const auto port =
      PortFromJson(R"({"name":"vm1","socket":"/s","uplink":[{"kind":"vdpa","device":"0000:3b:02.1,vdpa=1"}]})");
  ASSERT_TRUE(port.ok()) << port.status();
  EXPECT_EQ(port->uplinks[0].kind, UplinkKind::kVdpa);
  EXPECT_EQ(port->uplinks[0].device, "0000:3b:02.1,vdpa=1");
}

TEST(PortJson, BindIsKeptAndLeftOutWhereItIsNotSet) {
  const auto port =
      PortFromJson(R"({"name":"vm1","socket":"/s","uplink":[{"kind":"vf","device":"0000:3B:02.1","bind":true}]})");
  ASSERT_TRUE(port.ok()) << port.status();
  EXPECT_TRUE(port->uplinks[0].bind);
  EXPECT_THAT(PortToJson(*port), HasSubstr(R"({"kind":"vf","device":"0000:3b:02.1","bind":true})"));
  EXPECT_EQ(*PortFromJson(PortToJson(*port)), *port);
}

}  // namespace
}  // namespace everport
