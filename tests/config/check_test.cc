#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "backend/config/config.h"

namespace everport {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

PortConfig Port(const std::string& name, std::vector<UplinkConfig> uplinks = {}) {
  PortConfig port;
  port.name = name;
  port.socket = absl::StrCat("/run/", name, ".sock");
  port.uplinks = std::move(uplinks);
  if (port.uplinks.empty()) port.uplinks = {{UplinkKind::kTap, "t-" + name, ""}};
  return port;
}

std::string Fault(PortConfig port) {
  return std::string(CheckPort(port, "port").message());
}
std::string UplinkFault(UplinkConfig uplink) {
  return Fault(Port("vm1", {std::move(uplink)}));
}
std::string SetFault(const std::vector<PortConfig>& ports, UnknownPeer unknown = UnknownPeer::kRefuse) {
  return std::string(CheckPorts(ports, unknown).message());
}
UplinkConfig Wire(const std::string& peer) {
  return {UplinkKind::kPort, peer, ""};
}

TEST(UplinkKind, NamesAndParsingAgree) {
  for (int i = 0; i <= static_cast<int>(UplinkKind::kPort); ++i) {
    const auto kind = static_cast<UplinkKind>(i);
    EXPECT_EQ(*ParseUplinkKind(UplinkKindName(kind)), kind);
  }
  EXPECT_EQ(UplinkKindName(UplinkKind::kVhostVdpa), "vhost-vdpa");
  EXPECT_TRUE(absl::IsInvalidArgument(ParseUplinkKind("TAP").status()));
}

TEST(Mac, ParsesAndFormats) {
  uint8_t mac[6];
  ASSERT_TRUE(ParseMac("0A:1b:2C:3d:4E:5f", mac));
  EXPECT_EQ(FormatMac(mac), "0a:1b:2c:3d:4e:5f");
  for (const char* bad : {"", "0a:1b:2c:3d:4e", "0a:1b:2c:3d:4e:5f:60", "0a-1b-2c-3d-4e-5f", "0g:1b:2c:3d:4e:5f",
                          " a:1b:2c:3d:4e:5f", "0a:1b:2c:3d:4e:5 ", "0a:1b:2c:3d:4e5f0"}) {
    EXPECT_FALSE(ParseMac(bad, mac)) << bad;
  }
}

TEST(CheckPort, PostcopyGoesWithNeitherSeveralQueuePairsNorAVdpaDevice) {
  PortConfig port = Port("vm1");
  port.postcopy = true;
  EXPECT_EQ(Fault(port), "");
  port.queue_pairs = 2;
  EXPECT_THAT(Fault(port), StartsWith("port: postcopy: QEMU does not bring a guest with 2 queue pairs by post-copy"));
  port.queue_pairs = 1;
  port.uplinks.push_back({UplinkKind::kVdpa, "0000:3b:02.1", ""});
  EXPECT_THAT(Fault(port), StartsWith("port: postcopy: an uplink of kind vdpa"));
  port.uplinks.back() = {UplinkKind::kVhostVdpa, "/dev/vhost-vdpa-0", ""};
  EXPECT_EQ(Fault(port), "");
}

TEST(CheckPort, NamesTheObjectAndTheKey) {
  PortConfig port = Port("vm1");
  port.mtu = 10;
  EXPECT_EQ(std::string(CheckPort(port, "port vm1").message()), "port vm1: mtu: 10 is out of range; use 68 to 9216");
}

TEST(CheckPort, NameIsOneThatFilesAndLabelsCanHave) {
  for (const char* good : {"a", "9", "vm1-net0", "A_b.c-d"}) EXPECT_EQ(Fault(Port(good)), "") << good;
  EXPECT_EQ(Fault(Port(std::string(63, 'a'), {{UplinkKind::kTap, "t0", ""}})), "");
  PortConfig port = Port("vm1");
  for (const std::string& bad : {std::string(64, 'a'), std::string("-a"), std::string(".."), std::string("a/b"),
                                 std::string("a b"), std::string("é"), std::string("")}) {
    port.name = bad;
    EXPECT_THAT(Fault(port), StartsWith("port: name: ")) << bad;
  }
}

TEST(CheckPort, SocketIsAPathThatCanBeConnectedTo) {
  PortConfig port = Port("vm1");
  port.socket = "/" + std::string(106, 's');
  EXPECT_EQ(Fault(port), "");
  for (const std::string& bad : {"/" + std::string(107, 's'), std::string("run/s"), std::string(""),
                                 std::string("/run/"), std::string("/a\0b", 4)}) {
    port.socket = bad;
    EXPECT_THAT(Fault(port), StartsWith("port: socket: ")) << bad;
  }
}

TEST(CheckPort, MacIsNormalisedAndUnicast) {
  PortConfig port = Port("vm1");
  port.mac = "52:54:00:AB:CD:EF";
  ASSERT_TRUE(CheckPort(port, "port").ok());
  EXPECT_EQ(port.mac, "52:54:00:ab:cd:ef");
  for (const char* bad : {"01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "52-54-00-ab-cd-ef"}) {
    port.mac = bad;
    EXPECT_THAT(Fault(port), StartsWith("port: mac: ")) << bad;
  }
}

// The address that a name gives is part of the outside contract: a guest keeps it over upgrades and on other hosts.
TEST(CheckPort, MacMadeFromTheNameIsStable) {
  PortConfig port = Port("vm1-net0");
  ASSERT_TRUE(CheckPort(port, "port").ok());
  EXPECT_EQ(port.mac, "52:54:00:db:e6:33");
  std::set<std::string> macs;
  for (int i = 0; i < 256; ++i) {
    PortConfig other = Port(absl::StrCat("vm", i, "-net0"));
    ASSERT_TRUE(CheckPort(other, "port").ok());
    EXPECT_THAT(other.mac, StartsWith("52:54:00:"));
    macs.insert(other.mac);
  }
  EXPECT_EQ(macs.size(), 256u);
}

TEST(CheckPort, ContractSetsLimits) {
  PortConfig port = Port("vm1");
  port.contract = "everport-2";
  EXPECT_EQ(Fault(port), "port: contract: \"everport-2\" is not a feature contract; use one of everport-1, minimal-1");
  port.contract = "minimal-1";
  EXPECT_EQ(Fault(port), "");
  port.queue_pairs = 2;
  EXPECT_EQ(Fault(port), "port: queue_pairs: 2 is more than contract minimal-1 has; use at most 1 or another contract");
  port.queue_pairs = 1;
  port.mtu = 1501;
  EXPECT_EQ(Fault(port), "port: mtu: 1501 is more than contract minimal-1 has; use at most 1500 or another contract");
}

TEST(CheckPort, InterfaceNamesAreLinuxs) {
  for (const auto kind : {UplinkKind::kTap, UplinkKind::kAfPacket, UplinkKind::kAfXdp}) {
    EXPECT_EQ(UplinkFault({kind, "enp3s0.100", ""}), "");
    EXPECT_EQ(UplinkFault({kind, std::string(15, 'a'), ""}), "");
    for (const std::string& bad : {std::string(16, 'a'), std::string("a/b"), std::string("a b"), std::string("."),
                                   std::string(".."), std::string(""), std::string("a\nb"), std::string("a:b")}) {
      EXPECT_THAT(UplinkFault({kind, bad, ""}), StartsWith("port: uplink[0].device: ")) << bad;
    }
  }
}

TEST(CheckPort, VdevIsADpdkVdevString) {
  for (const char* good : {"net_null0", "net_memif0,role=server,socket=/run/m.sock", "net_pcap0,iface=lo",
                           "net_vhost0,iface=/s", "net_virtio_user0,path=/dev/vhost-net,iface=ep7"}) {
    EXPECT_EQ(UplinkFault({UplinkKind::kVdev, good, ""}), "") << good;
  }
  for (const char* bad : {"", ",role=server", "0net", "net null,a=b", "net_pcap0,iface=l\xc3\xb6", "net\t0", "-l 3"}) {
    EXPECT_THAT(UplinkFault({UplinkKind::kVdev, bad, ""}), StartsWith("port: uplink[0].device: ")) << bad;
  }
}

TEST(CheckPort, AVdevThatWaitsForAnotherProcessIsRefusedWithWhatToUse) {
  for (const char* bad : {"net_virtio_user7,path=/x.sock,server=1", "net_virtio_user6,path=/x.sock",
                          "virtio_user0,queues=2,path=/dev/x", "net_virtio_user0,path=/dev/vhost-net,server=1",
                          "net_failsafe0,dev(net_virtio_user0,path=/x.sock),mac=fixed"}) {
    const std::string fault = UplinkFault({UplinkKind::kVdev, bad, ""});
    EXPECT_THAT(fault, HasSubstr("DPDK waits for the process at a vhost-user socket")) << bad;
    EXPECT_THAT(fault, HasSubstr("use the kind virtio-user")) << bad;
  }
  for (const char* good : {"net_virtio_user0,path=/dev/vhost-net,server=0", "net_virtio_user0,path=/dev/vhost-vdpa-0",
                           "net_failsafe0,dev(net_virtio_user0,path=/dev/vhost-net)", "net_virtio0,path=/s"}) {
    EXPECT_EQ(UplinkFault({UplinkKind::kVdev, good, ""}), "") << good;
  }
}

TEST(CheckPort, VfIsAPciAddress) {
  for (const char* good : {"0000:3b:02.1", "10000:e1:00.7", "0000:00:1f.0"})
    EXPECT_EQ(UplinkFault({UplinkKind::kVf, good, ""}), "") << good;
  for (const char* bad : {"3b:02.1", "0000:3b:02", "0000:3b:20.1", "0000:3b:02.8", "0000:3b.02:1", "eth0",
                          "0000:3b:02.1 ", "000:3b:02.1", "0000:3b:02.01", "0000:3g:02.1", "", "../../0000:3b:02.1"}) {
    EXPECT_THAT(UplinkFault({UplinkKind::kVf, bad, ""}), StartsWith("port: uplink[0].device: ")) << bad;
  }
  EXPECT_EQ(
      UplinkFault({UplinkKind::kVf, "3b:02.1", ""}),
      "port: uplink[0].device: \"3b:02.1\" is not a PCI address; write it as 0000:3b:02.1 (`lspci -D` lists them)");
}

TEST(CheckPort, PciAddressIsNormalised) {
  PortConfig port = Port("vm1", {{UplinkKind::kVf, "0000:3B:02.1", ""}});
  ASSERT_TRUE(CheckPort(port, "port").ok());
  EXPECT_EQ(port.uplinks[0].device, "0000:3b:02.1");
  // So that two ways of writing it are one device.
  PortConfig other = Port("vm2", {{UplinkKind::kVf, "0000:3b:02.1", ""}});
  EXPECT_EQ(SetFault({port, other}),
            "port vm2: uplink[0].device: device \"0000:3b:02.1\" is already used by port vm1; an uplink belongs to one "
            "port: name another device");
}

TEST(CheckPort, BindBelongsToAVf) {
  EXPECT_EQ(UplinkFault({.kind = UplinkKind::kVf, .device = "0000:3b:02.1", .bridge = "", .bind = true}), "");
  EXPECT_EQ(UplinkFault({.kind = UplinkKind::kAfPacket, .device = "eth0", .bridge = "", .bind = true}),
            "port: uplink[0].bind: only a vf is bound to vfio-pci, this uplink is af_packet; remove the key");
}

TEST(CheckPort, VirtioUserMakesATap) {
  EXPECT_EQ(UplinkFault({UplinkKind::kVirtioUser, "vu0", "br0"}), "");
  EXPECT_THAT(UplinkFault({UplinkKind::kVirtioUser, "/dev/vhost-net", ""}), StartsWith("port: uplink[0].device: "));
  EXPECT_THAT(SetFault({Port("a", {{UplinkKind::kVirtioUser, "t0", ""}}), Port("b", {{UplinkKind::kTap, "t0", ""}})}),
              HasSubstr("network interface \"t0\" is already used by port a"));
  EXPECT_THAT(SetFault({Port("a", {{UplinkKind::kVirtioUser, "t0", ""}, {UplinkKind::kAfPacket, "t0", ""}})}),
              HasSubstr("is already used"));
}

TEST(CheckPort, BridgeBelongsToATap) {
  EXPECT_EQ(UplinkFault({UplinkKind::kTap, "t0", "br0"}), "");
  EXPECT_THAT(UplinkFault({UplinkKind::kTap, "t0", "a bridge"}), StartsWith("port: uplink[0].bridge: "));
  EXPECT_THAT(UplinkFault({UplinkKind::kTap, "t0", "t0"}), StartsWith("port: uplink[0].bridge: "));
  EXPECT_EQ(UplinkFault({UplinkKind::kAfPacket, "eth0", "br0"}),
            "port: uplink[0].bridge: only a tap can be put into a bridge, this uplink is af_packet; remove the key");
}

TEST(CheckPort, WireToItself) {
  EXPECT_EQ(Fault(Port("vm1", {Wire("vm1")})),
            "port: uplink[0].device: a port cannot be wired to itself; name another port");
}

TEST(CheckPort, SameUplinkTwice) {
  EXPECT_THAT(Fault(Port("vm1", {{UplinkKind::kTap, "t0", ""}, {UplinkKind::kTap, "t0", "br0"}})),
              StartsWith("port: uplink[1].device: the same device as uplink[0]; "));
}

TEST(CheckPorts, DistinctPortsAreFine) {
  EXPECT_EQ(SetFault({Port("vm1"), Port("vm2")}), "");
}

TEST(CheckPorts, DuplicateNameOrSocket) {
  EXPECT_THAT(SetFault({Port("vm1"), Port("vm1")}), StartsWith("port vm1: name: \"vm1\" is already the name of "));
  PortConfig other = Port("vm2");
  other.socket = "/run/./vm1.sock";
  EXPECT_THAT(SetFault({Port("vm1"), other}),
              StartsWith("port vm2: socket: \"/run/./vm1.sock\" is already the socket of port vm1; "));
}

TEST(CheckPorts, MadeUpMacThatAnotherPortHas) {
  PortConfig first = Port("vm1"), second = Port("vm2");
  ASSERT_TRUE(CheckPort(first, "port").ok() && CheckPort(second, "port").ok());
  const std::string made = second.mac;
  first.mac = made;
  EXPECT_THAT(SetFault({first, second}), StartsWith("port vm2: mac: the address " + made + ", made from the name"));
  first.mac = second.mac = "52:54:00:00:00:01";
  EXPECT_EQ(SetFault({first, second}), "") << "written down twice is the operator's choice";
}

TEST(CheckPorts, DeviceUsedTwice) {
  EXPECT_THAT(SetFault({Port("vm1", {{UplinkKind::kTap, "t0", ""}}), Port("vm2", {{UplinkKind::kAfPacket, "t0", ""}})}),
              StartsWith("port vm2: uplink[0].device: network interface \"t0\" is already used by port vm1; "));
  EXPECT_THAT(SetFault({Port("vm1", {{UplinkKind::kVdev, "net_null0", ""}}),
                        Port("vm2", {{UplinkKind::kVdev, "net_null0,copy=1", ""}})}),
              StartsWith("port vm2: uplink[0].device: vdev \"net_null0\" is already used by port vm1; "));
  EXPECT_THAT(SetFault({Port("vm1", {{UplinkKind::kVdpa, "0000:3b:02.1", ""}}),
                        Port("vm2", {{UplinkKind::kVdpa, "0000:3b:02.1,vdpa=1", ""}})}),
              StartsWith("port vm2: uplink[0].device: device \"0000:3b:02.1\" is already used by port vm1; "));
}

struct Disguise {
  UplinkConfig plain;
  UplinkConfig other;
  const char* object;
};

TEST(CheckPorts, OneThingHoweverItIsWritten) {
  const auto vdev = [](const char* text) { return UplinkConfig{UplinkKind::kVdev, text, ""}; };
  const UplinkConfig tap{UplinkKind::kTap, "ep-two", ""}, vf{UplinkKind::kVf, "0000:3b:02.1", ""},
      node{UplinkKind::kVhostVdpa, "/dev/vhost-vdpa-0", ""};
  const char* const interface = "network interface \"ep-two\"";
  const char* const device = "device \"0000:3b:02.1\"";
  const char* const vdpa = "device \"/dev/vhost-vdpa-0\"";
  const Disguise disguises[] = {
      {tap, vdev("net_tap6,iface=ep-two"), interface},
      {tap, vdev("net_tap6,mac=fixed,remote=ep-two"), interface},
      {tap, vdev("net_af_packet0,qpairs=1,iface=ep-two"), interface},
      {tap, vdev("net_af_xdp0,iface=ep-two,start_queue=0"), interface},
      {tap, vdev("net_virtio_user0,path=/dev/vhost-net,iface=ep-two"), interface},
      {tap, vdev("net_pcap0,rx_iface=ep-two"), interface},
      {vdev("net_tap5,iface=ep-two"), vdev("net_tap6,iface=ep-two"), interface},
      {vf, {UplinkKind::kVdpa, "0000:3B:02.1,vdpa=1", ""}, device},
      {vf, {UplinkKind::kVdpa, "3b:02.1", ""}, device},
      {vf, {UplinkKind::kVdpa, "pci:00000000:3b:02.1", ""}, device},
      {vf, vdev("net_bonding0,mode=1,slave=0000:3b:02.1"), device},
      {vf, vdev("net_failsafe0,dev(3b:02.1),dev(net_tap0)"), device},
      {node, {UplinkKind::kVhostVdpa, "/dev/../dev/./vhost-vdpa-0", ""}, vdpa},
      {node, {UplinkKind::kVhostVdpa, "/dev//vhost-vdpa-0", ""}, vdpa},
      {node, vdev("net_virtio_user1,path=/dev/vhost-vdpa-0"), vdpa},
  };
  for (const auto& [plain, other, object] : disguises) {
    EXPECT_THAT(SetFault({Port("vm1", {plain}), Port("vm2", {other})}),
                StartsWith(absl::StrCat("port vm2: uplink[0].device: ", object, " is already used by port vm1; ")))
        << other.device;
    EXPECT_THAT(SetFault({Port("vm1", {other}), Port("vm2", {plain})}), HasSubstr(" is already used by port vm1; "))
        << other.device;
    EXPECT_THAT(SetFault({Port("vm1", {plain, other})}), HasSubstr(" is already used by uplink[0] of the same port; "))
        << other.device;
  }
}

TEST(CheckPorts, WhatVdevsMayShare) {
  const auto vdev = [](const char* text) { return UplinkConfig{UplinkKind::kVdev, text, ""}; };
  EXPECT_EQ(SetFault({Port("vm1", {vdev("net_memif0,socket=/run/m.sock,role=server,id=0")}),
                      Port("vm2", {vdev("net_memif1,socket=/run/m.sock,role=server,id=1")})}),
            "");
  EXPECT_EQ(SetFault({Port("vm1", {vdev("net_virtio_user0,path=/dev/vhost-net,iface=a")}),
                      Port("vm2", {vdev("net_virtio_user1,path=/dev/vhost-net,iface=b")})}),
            "");
  EXPECT_EQ(SetFault({Port("vm1", {vdev("net_tap0")}), Port("vm2", {vdev("net_tap1,mac=02:00:00:3b:02.1")})}), "");
  EXPECT_EQ(SetFault({Port("vm1", {vdev("net_pcap0,rx_iface=a,tx_iface=a")})}), "") << "both ends of its own";
}

TEST(UplinkKind, AnUplinkIsNamedOnceInWhatIsSaidOfIt) {
  EXPECT_EQ(UplinkAside("vf", "0000:3b:02.1", "no such device"), " (vf 0000:3b:02.1)");
  EXPECT_EQ(UplinkAside("vf", "0000:3b:02.1", "PCI device 0000:3b:02.1 does not exist"), " (vf)");
  EXPECT_EQ(UplinkAside("vf", "0000:3b:02.1", "vf 0000:3b:02.1: in use by another port"), "");
}

TEST(CheckPort, ANodeOutsideDevIsNone) {
  EXPECT_EQ(UplinkFault({UplinkKind::kVhostVdpa, "/dev/vhost-vdpa-0", ""}), "");
  for (const char* bad : {"/tmp/vhost-vdpa-0", "/dev/../tmp/vhost-vdpa-0", "vhost-vdpa-0", ""})
    EXPECT_THAT(UplinkFault({UplinkKind::kVhostVdpa, bad, ""}), StartsWith("port: uplink[0].device: ")) << bad;
}

TEST(CheckPorts, OnePortMayListANetdevUnderTwoKinds) {
  const UplinkConfig xdp{UplinkKind::kAfXdp, "eth1", ""}, packet{UplinkKind::kAfPacket, "eth1", ""};
  EXPECT_EQ(SetFault({Port("vm1", {xdp, packet})}), "");
  EXPECT_THAT(SetFault({Port("vm1", {xdp}), Port("vm2", {packet})}), HasSubstr("already used by port vm1"));
  for (const auto& uplinks : {std::vector<UplinkConfig>{{UplinkKind::kTap, "eth1", ""}, packet},
                              std::vector<UplinkConfig>{packet, {UplinkKind::kTap, "eth1", ""}}}) {
    EXPECT_EQ(
        SetFault({Port("vm1", uplinks)}),
        "port vm1: uplink[1].device: network interface \"eth1\" is already used by uplink[0] of the same port; an "
        "uplink is listed once: remove one, or name another device");
  }
  EXPECT_EQ(SetFault({Port("vm1", {xdp, {UplinkKind::kVdev, "net_af_packet0,iface=eth1", ""}})}), "");
}

TEST(CheckPorts, WireIsMutual) {
  EXPECT_EQ(SetFault({Port("vm1", {Wire("vm2")}), Port("vm2", {Wire("vm1")})}), "");
  EXPECT_EQ(SetFault({Port("vm1", {Wire("vm2")}), Port("vm2")}),
            "port vm1: uplink[0].device: a wire has two ends, and port vm2 has no uplink of kind \"port\" back to "
            "\"vm1\"; add one there");
}

TEST(CheckPorts, WireAsSecondChoiceIsMutualToo) {
  const UplinkConfig tap{UplinkKind::kTap, "t0", ""};
  EXPECT_EQ(SetFault({Port("vm1", {tap, Wire("vm2")}), Port("vm2", {Wire("vm1")})}), "");
}

TEST(CheckPorts, UnknownPeerOnlyWhereAsked) {
  EXPECT_THAT(SetFault({Port("vm1", {Wire("vm2")})}), HasSubstr("there is no port \"vm2\""));
  EXPECT_EQ(SetFault({Port("vm1", {Wire("vm2")})}, UnknownPeer::kAllow), "");
  EXPECT_THAT(SetFault({Port("vm1", {Wire("vm2")}), Port("vm2")}, UnknownPeer::kAllow), HasSubstr("two ends"));
}

}  // namespace
}  // namespace everport
