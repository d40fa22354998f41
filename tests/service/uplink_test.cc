// Uplinks on real kernel devices, in a network namespace of this process's own: frames through, and what is said when
// something is missing. Needs root.
#include "backend/datapath/uplink.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <rte_mbuf.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "backend/datapath/eal.h"
#include "backend/datapath/ethdev_endpoint.h"
#include "backend/host/receive_merging.h"
#include "tests/datapath/mbuf_support.h"

namespace everport {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// Fails the test with the command.
void Shell(const std::string& command) {
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
}

frames::Bytes TestFrame(uint8_t tag, size_t payload) {
  frames::FrameSpec spec;
  spec.protocol = frames::kUdp;
  spec.payload.assign(payload, tag);
  return frames::Build(spec, frames::L4Checksum::kFull);
}

// The network's side of an uplink: a packet socket on a device.
class Wire {
 public:
  explicit Wire(const std::string& device) : fd_(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL))) {
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(if_nametoindex(device.c_str()));
    EXPECT_EQ(bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0) << device;
    packet_mreq all{};
    all.mr_ifindex = address.sll_ifindex;
    all.mr_type = PACKET_MR_PROMISC;
    setsockopt(fd_.get(), SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all);
  }
  void Send(const frames::Bytes& frame) {
    ASSERT_EQ(send(fd_.get(), frame.data(), frame.size(), 0), static_cast<ssize_t>(frame.size()));
  }
  // Waits for this very frame; others (IPv6 neighbour discovery) pass by.
  bool Hears(const frames::Bytes& frame) {
    frames::Bytes heard(65536);
    pollfd waiting{fd_.get(), POLLIN, 0};
    while (poll(&waiting, 1, 5000) == 1) {
      const ssize_t n = recv(fd_.get(), heard.data(), heard.size(), 0);
      if (n == static_cast<ssize_t>(frame.size()) && std::equal(frame.begin(), frame.end(), heard.begin())) return true;
    }
    return false;
  }

 private:
  UniqueFd fd_;
};

class UplinkTest : public ::testing::Test {
 protected:
  static PortConfig Port(UplinkConfig uplink, uint16_t mtu = 1500, uint16_t queue_pairs = 1) {
    PortConfig port;
    port.name = "vm1";
    port.socket = "/run/vm1.sock";
    port.mac = "52:54:00:00:00:02";
    port.mtu = mtu;
    port.queue_pairs = queue_pairs;
    port.uplinks = {std::move(uplink)};
    return port;
  }
  absl::StatusOr<std::unique_ptr<Uplink>> Open(const PortConfig& port) {
    return OpenUplink(port, port.uplinks[0], -1, mempools_, [](const std::string&) { return WirePeer{}; });
  }
  static bool Exists(const std::string& device) { return if_nametoindex(device.c_str()) != 0; }

  // Polls until this very frame comes out of the uplink.
  static bool Receives(Endpoint& uplink, const frames::Bytes& frame) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    bool found = false;
    while (!found && std::chrono::steady_clock::now() < end) {
      for (uint16_t queue = 0; queue < uplink.receive_queues(); ++queue) {
        rte_mbuf* burst[32];
        const uint16_t n = uplink.Receive(queue, burst, 32);
        for (uint16_t i = 0; i < n; ++i) {
          found = found || BytesOf(burst[i]) == frame;
          rte_pktmbuf_free(burst[i]);
        }
      }
    }
    return found;
  }
  void ExpectBothWays(Uplink& uplink, Wire& wire, size_t payload) {
    const frames::Bytes out = TestFrame('o', payload), in = TestFrame('i', payload);
    rte_mbuf* frame = MbufOf(out, uplink.lease->pool());
    EXPECT_EQ(uplink.endpoint->Transmit(0, &frame, 1), 1);
    EXPECT_TRUE(wire.Hears(out));
    wire.Send(in);
    EXPECT_TRUE(Receives(*uplink.endpoint, in));
  }

  Mempools mempools_;
};

TEST_F(UplinkTest, TapCarriesFramesAndOutlivesTheDaemonButNotThePort) {
  Shell("ip link add br-test type bridge && ip link set br-test up");
  const PortConfig port = Port({UplinkKind::kTap, "ep-test", "br-test"});
  {
    auto uplink = Open(port);
    ASSERT_TRUE(uplink.ok()) << uplink.status();
    Wire wire("ep-test");
    ExpectBothWays(**uplink, wire, 100);
    EXPECT_EQ(std::filesystem::read_symlink("/sys/class/net/ep-test/master").filename(), "br-test");
  }
  ASSERT_TRUE(Exists("ep-test"));
  {
    auto again = Open(port);
    ASSERT_TRUE(again.ok()) << again.status();
    Wire wire("ep-test");
    ExpectBothWays(**again, wire, 100);
  }
  ASSERT_TRUE(ForgetUplink(port, port.uplinks[0]).ok());
  EXPECT_FALSE(Exists("ep-test"));
  Shell("ip link del br-test");
}

TEST_F(UplinkTest, TapOfTheOperatorsOwnIsUsedAndLeft) {
  Shell("ip tuntap add dev ep-own mode tap multi_queue");
  const PortConfig port = Port({UplinkKind::kTap, "ep-own", ""}, 9000, 4);
  {
    auto uplink = Open(port);
    ASSERT_TRUE(uplink.ok()) << uplink.status();
    EXPECT_EQ((*uplink)->endpoint->transmit_queues(), 4);
    Wire wire("ep-own");
    ExpectBothWays(**uplink, wire, 8900);
  }
  ASSERT_TRUE(ForgetUplink(port, port.uplinks[0]).ok());
  EXPECT_TRUE(Exists("ep-own"));
  Shell("ip link del ep-own");
}

TEST_F(UplinkTest, TapThatIsDeletedIsFoundFailedAndCanBeMadeAnew) {
  const PortConfig port = Port({UplinkKind::kTap, "ep-gone", ""});
  auto uplink = Open(port);
  ASSERT_TRUE(uplink.ok()) << uplink.status();
  bool complete = true;
  EXPECT_EQ((*uplink)->endpoint->WakeFds(complete).size(), 1u);
  Shell("ip link del ep-gone");
  rte_mbuf* burst[8];
  EXPECT_EQ((*uplink)->endpoint->Receive(0, burst, 8), 0);
  EXPECT_EQ((*uplink)->endpoint->trouble(), Trouble::kRemoved);
  EXPECT_TRUE((*uplink)->endpoint->WakeFds(complete).empty());  // they would wake the poller for ever
  uplink->reset();
  auto again = Open(port);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->endpoint->trouble(), Trouble::kNone);
  again->reset();
  ASSERT_TRUE(ForgetUplink(port, port.uplinks[0]).ok());
}

TEST_F(UplinkTest, TapThatCannotBeUsedSaysWhatToDo) {
  const auto said = [&](const std::string& device) {
    const std::string message(Open(Port({UplinkKind::kTap, device, ""})).status().message());
    EXPECT_THAT(message, Not(HasSubstr("ip link del"))) << "it is none of ours";
    return message;
  };
  Shell("ip tuntap add dev ep-single mode tap && ip tuntap add dev ep-tun mode tun && ip link add ep-br type bridge");
  EXPECT_THAT(said("ep-single"), StartsWith("tap ep-single: ep-single is a tap with one queue; choose another name"));
  {
    const UniqueFd other(open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    ifreq request{};
    strcpy(request.ifr_name, "ep-single");
    request.ifr_flags = IFF_TAP | IFF_NO_PI;
    ASSERT_EQ(ioctl(other.get(), TUNSETIFF, &request), 0);
    EXPECT_THAT(said("ep-single"), HasSubstr(" is a tap with one queue, in use by another program; choose another"));
  }
  EXPECT_THAT(said("ep-tun"), HasSubstr("ep-tun is a tun device, not a tap; choose another name"));
  EXPECT_THAT(said("ep-br"), HasSubstr("ep-br is a bridge, not a tap; choose another name"));
  EXPECT_THAT(said("lo"), HasSubstr("lo is the host's loopback interface, not a tap; choose another name"));
  Shell("ip link del ep-single && ip link del ep-tun && ip link del ep-br");
  EXPECT_THAT(std::string(Open(Port({UplinkKind::kTap, "ep-nobridge", "br-none"})).status().message()),
              HasSubstr("bridge br-none does not exist; ip link add br-none type bridge && ip link set br-none up"));
  EXPECT_THAT(std::string(Open(Port({UplinkKind::kTap, "ep-nobridge", "lo"})).status().message()),
              HasSubstr("lo is not a bridge"));
  Shell("ip link del ep-nobridge");
}

TEST_F(UplinkTest, AfPacketCarriesFramesOfTheConfiguredMtu) {
  for (const uint16_t mtu : {1500, 9000}) {
    Shell("ip link add veth-a mtu " + std::to_string(mtu) + " type veth peer name veth-b mtu " + std::to_string(mtu) +
          " && ip link set veth-b up");
    auto uplink = Open(Port({UplinkKind::kAfPacket, "veth-a", ""}, mtu));
    EXPECT_TRUE(uplink.ok()) << uplink.status();
    if (!uplink.ok()) break;
    Wire wire("veth-b");
    ExpectBothWays(**uplink, wire, mtu - 28u);
    uplink->reset();
    Shell("ip link del veth-a");
  }
}

// Merged frames are longer than the MTU, and DPDK's driver has no room for them.
TEST_F(UplinkTest, AfPacketKeepsTheKernelFromMergingWhatArrivesAndSaysSoOnce) {
  Shell("ip link add veth-a type veth peer name veth-b && ethtool -K veth-a gro on");
  const PortConfig port = Port({UplinkKind::kAfPacket, "veth-a", ""});
  const auto open = [&] {
    testing::internal::CaptureStdout();
    EXPECT_TRUE(Open(port).ok());
    return testing::internal::GetCapturedStdout();
  };
  const std::string first = open(), second = open();
  Shell("ethtool -k veth-a | grep -q '^generic-receive-offload: off'");
  EXPECT_THAT(first, HasSubstr("af_packet veth-a: gro switched off: "));
  EXPECT_THAT(second, Not(HasSubstr("switched off")));
  Shell("ip link del veth-a");
}

TEST_F(UplinkTest, WhoMayNotKeepTheKernelFromMergingIsToldWhatToDo) {
  Shell("ip link add veth-a up type veth peer name veth-b && ethtool -K veth-a gro on");
  std::string said;
  std::thread([&] {  // capabilities are a thread's own
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2]{};
    ASSERT_EQ(syscall(SYS_capget, &header, data), 0);
    data[0].effective &= ~(1u << CAP_NET_ADMIN);
    ASSERT_EQ(syscall(SYS_capset, &header, data), 0);
    said = std::string(SwitchMergingOff("veth-a").status().message());
  })
      .join();
  EXPECT_THAT(said, AllOf(HasSubstr("veth-a: gro could not be switched off (Operation not permitted): "),
                          HasSubstr("run: ethtool -K veth-a gro off")));
  Shell("ip link del veth-a");
}

TEST_F(UplinkTest, AfXdpCarriesFrames) {
  Shell("ip link add veth-a type veth peer name veth-b && ip link set veth-b up");
  auto uplink = Open(Port({UplinkKind::kAfXdp, "veth-a", ""}));
  ASSERT_TRUE(uplink.ok()) << uplink.status();
  Wire wire("veth-b");
  ExpectBothWays(**uplink, wire, 1000);
  uplink->reset();
  Shell("ip link del veth-a");
}

TEST_F(UplinkTest, VdevIsGivenToDpdkAsItStandsAndIsOnePortsAlone) {
  const PortConfig port = Port({UplinkKind::kVdev, "net_null7,size=128", ""});
  auto uplink = Open(port);
  ASSERT_TRUE(uplink.ok()) << uplink.status();
  rte_mbuf* burst[8];
  ASSERT_EQ((*uplink)->endpoint->Receive(0, burst, 8), 8);
  EXPECT_EQ(burst[0]->pkt_len, 128u);
  EXPECT_EQ((*uplink)->endpoint->Transmit(0, burst, 8), 8);
  EXPECT_THAT(std::string(Open(port).status().message()), HasSubstr("net_null7 is in use by another port"));
  uplink->reset();
  EXPECT_TRUE(Open(port).ok());
}

Trouble TroubleOf(const Uplink& uplink) {
  return dynamic_cast<const EthdevEndpoint&>(*uplink.endpoint).trouble();
}

TEST_F(UplinkTest, LinkOfAVdevIsTroubleOnlyWhereItMeansSomething) {
  for (const char* vdev : {"net_null8", "net_ring8"}) {
    auto uplink = Open(Port({UplinkKind::kVdev, vdev, ""}));
    ASSERT_TRUE(uplink.ok()) << uplink.status();
    EXPECT_EQ(TroubleOf(**uplink), Trouble::kNone) << vdev;
    EXPECT_EQ((*uplink)->endpoint->in_flight(), 0u) << "a software device has finished with what it took";
  }
  Shell("ip link add veth-a type veth peer name veth-b");
  auto uplink = Open(Port({UplinkKind::kAfPacket, "veth-a", ""}));
  ASSERT_TRUE(uplink.ok()) << uplink.status();
  EXPECT_EQ(TroubleOf(**uplink), Trouble::kNone);  // rtnetlink tells of this one
  uplink->reset();
  Shell("ip link del veth-a");
}

TEST_F(UplinkTest, VfThatDoesNotExistIsNamed) {
  const auto uplink = Open(Port({.kind = UplinkKind::kVf, .device = "0000:7f:1f.7", .bridge = "", .bind = true}));
  EXPECT_TRUE(absl::IsNotFound(uplink.status()));
  EXPECT_THAT(std::string(uplink.status().message()), StartsWith("PCI device 0000:7f:1f.7 does not exist; "));
}

// Opening some devices does something (/dev/watchdog). A pipe stands for them: its reader hears of a writer that has
// come and gone.
TEST_F(UplinkTest, ANodeThatIsNoVhostVdpaDeviceIsNotEvenOpened) {
  EXPECT_THAT(std::string(Open(Port({UplinkKind::kVhostVdpa, "/dev/null", ""})).status().message()),
              HasSubstr("/dev/null is a device of class mem (null), not a vhost-vdpa device; name "));
  const std::string pipe = "/dev/shm/everport-uplink-test-" + std::to_string(getpid());
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const UniqueFd reader(open(pipe.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  ASSERT_TRUE(reader.valid());
  const auto uplink = Open(Port({UplinkKind::kVhostVdpa, pipe, ""}));
  pollfd hangup{reader.get(), POLLIN, 0};
  EXPECT_EQ(poll(&hangup, 1, 0), 0) << "somebody has opened and closed it";
  unlink(pipe.c_str());
  EXPECT_THAT(std::string(uplink.status().message()), HasSubstr(pipe + " is a pipe, not a vhost-vdpa device; name "));
}

TEST_F(UplinkTest, MissingDevicesAreNamedWithTheirCause) {
  EXPECT_THAT(std::string(Open(Port({UplinkKind::kAfPacket, "none0", ""})).status().message()),
              HasSubstr("network device none0 does not exist here"));
  EXPECT_THAT(std::string(Open(Port({UplinkKind::kAfXdp, "none0", ""})).status().message()),
              HasSubstr("network device none0 does not exist here"));
  EXPECT_THAT(std::string(Open(Port({UplinkKind::kVdev, "net_pcap0,iface=none0", ""})).status().message()),
              AllOf(HasSubstr("Couldn't open interface none0"), HasSubstr("; check the driver's name, its arguments")));
  EXPECT_THAT(std::string(Open(Port({UplinkKind::kVdev, "net_nosuch0", ""})).status().message()),
              AllOf(StartsWith("vdev net_nosuch0: DPDK could not open it: "), HasSubstr("; check the driver's name")));
  EXPECT_THAT(std::string(Open(Port({UplinkKind::kPort, "vm2", ""})).status().message()),
              HasSubstr("port vm2 does not exist yet"));
}

// An error that comes again is known by its text: with a name in it that counts, every try would be an event.
TEST_F(UplinkTest, AnInterfaceThatTakesNoXdpIsRefusedInTheSameWordsEachTimeAndWithoutALineOnStderr) {
  testing::internal::CaptureStderr();
  const std::string first(Open(Port({UplinkKind::kAfXdp, "lo", ""})).status().message());
  const std::string second(Open(Port({UplinkKind::kAfXdp, "lo", ""})).status().message());
  const std::string printed = testing::internal::GetCapturedStderr();
  EXPECT_THAT(first, AllOf(StartsWith("af_xdp lo: "), HasSubstr("; it must be an interface whose driver takes XDP")));
  EXPECT_EQ(first, second);
  EXPECT_THAT(printed, AllOf(Not(HasSubstr("libbpf:")), Not(HasSubstr("libxdp:"))));
}

// DPDK's own words have the name in them that we made up: here it finds no descriptor for the second of four sockets.
TEST_F(UplinkTest, AnErrorThatComesAgainReadsTheSame) {
  Shell("ip link add veth-a type veth peer name veth-b");
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit few = before;
  few.rlim_cur = 256;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  std::vector<UniqueFd> taken;
  do taken.emplace_back(open("/dev/null", O_RDONLY | O_CLOEXEC));
  while (taken.back().valid());
  taken.resize(taken.size() - 3);  // the last is none: two are left
  const PortConfig port = Port({UplinkKind::kAfPacket, "veth-a", ""}, 1500, 4);
  const std::string first(Open(port).status().message()), second(Open(port).status().message());
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_THAT(first, AllOf(StartsWith("af_packet veth-a: DPDK could not open it: "), HasSubstr("(net_af_packet)")));
  EXPECT_EQ(first, second);
  Shell("ip link del veth-a");
}

TEST_F(UplinkTest, WithoutPacketSocketsAfPacketSaysWhatTheDaemonNeeds) {
  Shell("ip link add veth-a type veth peer name veth-b");
  std::string first, second;
  std::thread([&] {  // capabilities are a thread's own
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2]{};
    ASSERT_EQ(syscall(SYS_capget, &header, data), 0);
    data[0].effective &= ~(1u << CAP_NET_RAW);
    ASSERT_EQ(syscall(SYS_capset, &header, data), 0);
    first = std::string(Open(Port({UplinkKind::kAfPacket, "veth-a", ""})).status().message());
    second = std::string(Open(Port({UplinkKind::kAfPacket, "veth-a", ""})).status().message());
  })
      .join();
  EXPECT_THAT(first, StartsWith("af_packet veth-a: no packet socket (Operation not permitted); everportd needs "
                                "CAP_NET_RAW"));
  EXPECT_EQ(first, second);
  Shell("ip link del veth-a");
}

TEST_F(UplinkTest, ManyOpeningsLeaveNoDescriptorsBehind) {
  const auto descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
  };
  const PortConfig port = Port({UplinkKind::kTap, "ep-leak", ""});
  ASSERT_TRUE(Open(port).ok());
  const auto before = descriptors();
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(Open(port).ok());
  EXPECT_EQ(descriptors(), before);
  ASSERT_TRUE(ForgetUplink(port, port.uplinks[0]).ok());
}

// Nothing of the machine's network is seen or touched: /sys shows the namespace's devices.
void EnterOwnNamespace() {
  if (unshare(CLONE_NEWNET | CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      mount("sysfs", "/sys", "sysfs", 0, nullptr) != 0 || std::system("ip link set lo up") != 0) {
    std::perror("a network namespace of one's own (root is needed)");
    std::exit(1);
  }
}

}  // namespace
}  // namespace everport

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  everport::EnterOwnNamespace();
  if (absl::Status status = everport::InitEal({everport::DaemonConfig::Memory::kOrdinary, {}}); !status.ok()) {
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    return 1;
  }
  return RUN_ALL_TESTS();
}
