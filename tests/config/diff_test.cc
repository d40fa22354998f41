#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/config/config.h"

namespace everport {
namespace {

PortConfig Port(const std::string& name) {
  PortConfig port;
  port.name = name;
  port.socket = "/run/" + name;
  port.mac = "52:54:00:00:00:01";
  port.uplinks = {{UplinkKind::kTap, "t-" + name, ""}};
  return port;
}

// The diff from a port to the same port after `change`.
template <typename Change>
PortDiff DiffOf(Change change) {
  PortConfig changed = Port("vm1");
  change(changed);
  return DiffPorts({Port("vm0"), Port("vm1")}, {Port("vm0"), changed});
}

const PortDiff kSession{.removed = {}, .added = {}, .session_changed = {"vm1"}, .uplink_changed = {}};
const PortDiff kUplink{.removed = {}, .added = {}, .session_changed = {}, .uplink_changed = {"vm1"}};

TEST(DiffPorts, SameIsNoDiffWhateverTheOrder) {
  EXPECT_EQ(DiffPorts({Port("a"), Port("b")}, {Port("b"), Port("a")}), PortDiff{});
}

TEST(DiffPorts, RemovedAndAddedAreInTheirOwnOrder) {
  EXPECT_EQ(DiffPorts({Port("z"), Port("keep"), Port("a")}, {Port("y"), Port("keep"), Port("b")}),
            (PortDiff{.removed = {"z", "a"}, .added = {"y", "b"}, .session_changed = {}, .uplink_changed = {}}));
}

TEST(DiffPorts, WhatTheGuestSeesBeginsTheSessionAnew) {
  EXPECT_EQ(DiffOf([](PortConfig& port) { port.socket = "/other"; }), kSession);
  EXPECT_EQ(DiffOf([](PortConfig& port) { port.queue_pairs = 2; }), kSession);
  EXPECT_EQ(DiffOf([](PortConfig& port) { port.mtu = 9000; }), kSession);
  EXPECT_EQ(DiffOf([](PortConfig& port) { port.contract = "minimal-1"; }), kSession);
  EXPECT_EQ(DiffOf([](PortConfig& port) { port.postcopy = true; }), kSession);
}

TEST(DiffPorts, WhatTheGuestDoesNotSeeIsAnUplinkChange) {
  EXPECT_EQ(DiffOf([](PortConfig& port) { port.mac = "52:54:00:00:00:02"; }), kUplink);
  EXPECT_EQ(DiffOf([](PortConfig& port) { port.failback_delay_ms = 1; }), kUplink);
  EXPECT_EQ(DiffOf([](PortConfig& port) { port.uplinks[0].device = "t9"; }), kUplink);
  EXPECT_EQ(DiffOf([](PortConfig& port) { port.uplinks[0].bridge = "br0"; }), kUplink);
  EXPECT_EQ(DiffOf([](PortConfig& port) { port.uplinks.push_back({UplinkKind::kAfPacket, "eth0", ""}); }), kUplink);
}

TEST(DiffPorts, APortIsInOneListAlone) {
  EXPECT_EQ(DiffOf([](PortConfig& port) {
              port.mtu = 9000;
              port.uplinks[0].device = "t9";
            }),
            kSession);
}

}  // namespace
}  // namespace everport
