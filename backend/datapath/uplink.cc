#include "backend/datapath/uplink.h"

#include <rte_cycles.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "backend/base/log.h"
#include "backend/datapath/ethdev_endpoint.h"
#include "backend/datapath/tap_device.h"
#include "backend/datapath/tap_endpoint.h"
#include "backend/datapath/vf.h"
#include "backend/datapath/vhost_vdpa.h"
#include "backend/datapath/virtio_user.h"
#include "backend/host/receive_merging.h"
#include "backend/host/vhost_vdpa_node.h"

namespace everport {
namespace {

// The mbufs a receive queue may keep, with as many again under way between pollers.
constexpr unsigned kMbufsPerQueue = 2 * EthdevEndpoint::kDescriptors;
// One frame of 64 KiB being read, and some under way.
constexpr unsigned kTapMbufsPerQueue = 128;
constexpr unsigned kJumboFrame = 10240;       // MTU 9216 with Ethernet and packet(7) headers; two make whole pages
constexpr unsigned kXdpMbufsPerQueue = 8192;  // its UMEM: fill and completion rings of 4096 each (net_af_xdp)

// EAL's device names are unique for the life of the process, whatever ports come and go.
std::string VdevName(const char* driver) {
  static std::atomic<unsigned> serial{0};
  return absl::StrCat(driver, serial++);
}

struct Device {
  std::string devargs;
  bool promiscuous = true;
  bool umem = false;
  uint16_t data_room = 0;    // of its own pool; 0: the usual
  bool follow_link = false;  // else the kernel tells of the network device that it stands on
  std::string mend = {};
};

// DPDK only says that it could not.
absl::Status CheckPacketSockets(const UplinkConfig& config) {
  const UniqueFd fd(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  if (fd.valid()) return absl::OkStatus();
  const int error = errno;
  return absl::Status(
      absl::ErrnoToStatusCode(error),
      absl::StrCat(DescribeUplink(config), ": no packet socket (", std::strerror(error), "); ",
                   error == EPERM ? "everportd needs CAP_NET_RAW: AmbientCapabilities= in its unit, or root"
                                  : "see the kernel's log"));
}

absl::StatusOr<Device> PrepareAfPacket(const PortConfig& port, const UplinkConfig& config) {
  if (absl::Status status = CheckNetdev(config.device); !status.ok()) return status;
  if (absl::Status status = CheckPacketSockets(config); !status.ok()) return status;
  if (absl::Status status = CheckMtu(config.device, port.mtu); !status.ok()) return status;
  if (absl::Status status = SetUp(config.device); !status.ok()) return status;
  std::string args = absl::StrCat(VdevName("net_af_packet"), ",iface=", config.device, ",qpairs=", port.queue_pairs);
  // A frame and its packet(7) header must fit: 2 KiB by default.
  if (port.mtu > 1900) absl::StrAppend(&args, ",blocksz=", 2 * kJumboFrame, ",framesz=", kJumboFrame, ",framecnt=256");
  Device device{args};
  device.mend = absl::StrCat("see `ip -d link show ", config.device, "`, or use another interface");
  if (port.mtu > 1900) device.data_room = kJumboFrame + RTE_PKTMBUF_HEADROOM;  // the driver wants one mbuf a frame
  return device;
}

// The kernel would give us what arrives merged into frames of up to 64 KiB, which DPDK's driver cuts or drops.
void KeepFramesApart(const UplinkConfig& config) {
  const auto off = SwitchMergingOff(config.device);
  if (!off.ok()) {
    spdlog::warn("{}: {}", UplinkKindName(config.kind), std::string(off.status().message()));
  } else if (!off->empty()) {
    spdlog::info("{}: {} switched off: received frames must not be merged to more than the MTU; it stays off",
                 DescribeUplink(config), absl::StrJoin(*off, ", "));
  }
}

absl::StatusOr<Device> PrepareAfXdp(const PortConfig&, const UplinkConfig& config) {
  if (absl::Status status = CheckNetdev(config.device); !status.ok()) return status;
  if (absl::Status status = SetUp(config.device); !status.ok()) return status;
  Device device{absl::StrCat(VdevName("net_af_xdp"), ",iface=", config.device), true, true};
  device.mend = absl::StrCat(
      "it must be an interface whose driver takes XDP programs, with as many queues as the port, and everportd needs "
      "CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF; kind = \"af_packet\" works with any");
  return device;
}

absl::StatusOr<Device> PrepareVdev(const UplinkConfig& config) {
  const std::string name(*absl::StrSplit(config.device, ',').begin());
  uint16_t id;
  if (rte_eth_dev_get_port_by_name(name.c_str(), &id) == 0)
    return absl::AlreadyExistsError(absl::StrCat("vdev ", name, " is in use by another port; give it another number"));
  Device device{config.device};
  device.follow_link = true;
  device.mend = absl::StrCat(
      "check the driver's name, its arguments and what they name (DPDK's guide lists both), and "
      "that DPDK's library of it is installed");
  return device;
}

absl::StatusOr<Device> Prepare(const PortConfig& port, const UplinkConfig& config) {
  switch (config.kind) {
    case UplinkKind::kAfPacket:
      return PrepareAfPacket(port, config);
    case UplinkKind::kAfXdp:
      return PrepareAfXdp(port, config);
    case UplinkKind::kVdev:
      return PrepareVdev(config);
    case UplinkKind::kTap:
    case UplinkKind::kPort:
    case UplinkKind::kVf:
    case UplinkKind::kVdpa:
    case UplinkKind::kVhostVdpa:
    case UplinkKind::kVirtioUser:
      break;
  }
  return absl::InternalError(absl::StrCat(DescribeUplink(config), ": not an ethdev"));
}

absl::StatusOr<std::unique_ptr<Uplink>> OpenWire(const PortConfig& port, const UplinkConfig& config, int node,
                                                 Mempools& mempools, const FindGuest& peers) {
  WirePeer peer = peers(config.device);
  if (!peer.guest) {
    return absl::NotFoundError(
        absl::StrCat("port ", config.device, " does not exist yet; add it with the uplink port:", port.name));
  }
  auto lease = mempools.Reserve(node, kMbufsPerQueue);
  if (!lease.ok()) return lease.status();
  auto uplink = std::make_unique<Uplink>();
  uplink->lease = std::move(*lease);
  uplink->endpoint = std::make_shared<WireEndpoint>(std::move(peer));
  return uplink;
}

absl::StatusOr<std::unique_ptr<Uplink>> OpenTap(const PortConfig& port, const UplinkConfig& config, int node,
                                                Mempools& mempools) {
  // The host's end needs a MAC of its own: the guest's with 0xfe in front, as libvirt does it, which is higher than any
  // real one, so that a bridge does not take it for its own.
  uint8_t host_mac[6] = {};
  if (!ParseMac(port.mac, host_mac)) return absl::InternalError(absl::StrCat("port ", port.name, ": MAC ", port.mac));
  host_mac[0] = 0xfe;
  if (absl::Status status = EnsureTap(config.device, port.name, host_mac); !status.ok()) return status;
  auto lease = mempools.Reserve(node, kTapMbufsPerQueue * port.queue_pairs);
  if (!lease.ok()) return lease.status();
  auto uplink = std::make_unique<Uplink>();
  uplink->lease = std::move(*lease);
  auto endpoint = TapEndpoint::Open({config.device, port.queue_pairs, port.mtu, uplink->lease->pool()});
  if (!endpoint.ok()) return endpoint.status();
  uplink->endpoint = std::move(*endpoint);
  if (!config.bridge.empty()) {
    if (absl::Status status = JoinBridge(config.device, config.bridge); !status.ok()) return status;
  }
  return uplink;
}

absl::StatusOr<std::unique_ptr<Uplink>> OpenVf(const PortConfig& port, const UplinkConfig& config, int node,
                                               Mempools& mempools, const std::function<void()>& changed) {
  const auto device = PrepareVfDevice(config);
  if (!device.ok()) return device.status();
  auto lease = mempools.Reserve(node, kVfMbufsPerQueue * port.queue_pairs);
  if (!lease.ok()) return lease.status();
  auto uplink = std::make_unique<Uplink>();
  uplink->lease = std::move(*lease);
  auto endpoint = OpenVfEndpoint(port, *device, uplink->lease->pool(), changed);
  if (!endpoint.ok()) return endpoint.status();
  uplink->endpoint = std::move(*endpoint);
  return uplink;
}

absl::StatusOr<std::unique_ptr<Uplink>> OpenVirtioUser(const PortConfig& port, const UplinkConfig& config, int node,
                                                       Mempools& mempools, const std::function<void()>& changed) {
  auto lease = mempools.Reserve(node, kVirtioUserMbufsPerQueue * port.queue_pairs);
  if (!lease.ok()) return lease.status();
  auto uplink = std::make_unique<Uplink>();
  uplink->lease = std::move(*lease);
  auto endpoint =
      OpenVirtioUserEndpoint(port, config, VdevName("net_virtio_user"), uplink->lease->pool(), node, changed);
  if (!endpoint.ok()) return endpoint.status();
  uplink->endpoint = std::move(*endpoint);
  return uplink;
}

absl::StatusOr<std::unique_ptr<Uplink>> OpenVhostVdpa(const UplinkConfig& config) {
  // What opening says of a node that is not there is more.
  if (absl::Status status = CheckVhostVdpaNode("", config.device); !status.ok() && !absl::IsNotFound(status))
    return status;
  auto device = VhostVdpaDevice::Open(config.device);
  if (!device.ok()) return device.status();
  auto uplink = std::make_unique<Uplink>();
  uplink->offload = std::move(*device);
  return uplink;
}

absl::StatusOr<std::unique_ptr<Uplink>> OpenVdpa(const PortConfig& port, const UplinkConfig& config) {
  auto device = VdpaDevice::Open(config.device, port.name, port.queue_pairs);
  if (!device.ok()) return device.status();
  auto uplink = std::make_unique<Uplink>();
  uplink->offload = uplink->vdpa = std::move(*device);
  return uplink;
}

absl::StatusOr<std::unique_ptr<Uplink>> OpenEthdev(const PortConfig& port, const UplinkConfig& config, int node,
                                                   Mempools& mempools, const std::function<void()>& changed) {
  absl::StatusOr<Device> device = Prepare(port, config);
  if (!device.ok()) return device.status();
  const Mempools::Kind kind = device->umem            ? Mempools::Kind::kUmem
                              : device->data_room > 0 ? Mempools::Kind::kOwn
                                                      : Mempools::Kind::kShared;
  const unsigned mbufs = (device->umem ? kXdpMbufsPerQueue : kMbufsPerQueue) * port.queue_pairs;
  auto lease = mempools.Reserve(node, mbufs, kind, device->data_room);
  if (!lease.ok()) return lease.status();
  auto uplink = std::make_unique<Uplink>();
  uplink->lease = std::move(*lease);
  auto endpoint = EthdevEndpoint::Open({.device = DescribeUplink(config),
                                        .devargs = device->devargs,
                                        .mend = device->mend,
                                        .queue_pairs = port.queue_pairs,
                                        .mtu = port.mtu,
                                        .promiscuous = device->promiscuous,
                                        .pool = uplink->lease->pool(),
                                        .numa_node = node,
                                        .follow_link = device->follow_link,
                                        .changed = changed});
  if (!endpoint.ok()) return endpoint.status();
  if (config.kind == UplinkKind::kAfPacket) KeepFramesApart(config);
  uplink->endpoint = std::move(*endpoint);
  return uplink;
}

}  // namespace

std::string DescribeUplink(const UplinkConfig& uplink) {
  return absl::StrCat(std::string(UplinkKindName(uplink.kind)), " ", uplink.device);
}

bool OpensQuickly(UplinkKind kind) {
  return kind == UplinkKind::kTap || kind == UplinkKind::kPort;
}

bool NeedsPolling(UplinkKind kind) {
  switch (kind) {
    case UplinkKind::kVf:
    case UplinkKind::kVdpa:
    case UplinkKind::kVhostVdpa:
    case UplinkKind::kVdev:
      return true;
    case UplinkKind::kTap:
    case UplinkKind::kAfPacket:
    case UplinkKind::kAfXdp:
    case UplinkKind::kVirtioUser:
    case UplinkKind::kPort:
      return false;
  }
  return false;
}

absl::StatusOr<std::unique_ptr<Uplink>> OpenUplink(const PortConfig& port, const UplinkConfig& config, int node,
                                                   Mempools& mempools, const FindGuest& peers,
                                                   const std::function<void()>& changed) {
  const uint64_t start = rte_rdtsc();
  auto uplink = config.kind == UplinkKind::kPort         ? OpenWire(port, config, node, mempools, peers)
                : config.kind == UplinkKind::kTap        ? OpenTap(port, config, node, mempools)
                : config.kind == UplinkKind::kVf         ? OpenVf(port, config, node, mempools, changed)
                : config.kind == UplinkKind::kVirtioUser ? OpenVirtioUser(port, config, node, mempools, changed)
                : config.kind == UplinkKind::kVhostVdpa  ? OpenVhostVdpa(config)
                : config.kind == UplinkKind::kVdpa       ? OpenVdpa(port, config)
                                                         : OpenEthdev(port, config, node, mempools, changed);
  if (uplink.ok())
    (*uplink)->opening_ms = static_cast<double>(rte_rdtsc() - start) * 1000 / static_cast<double>(rte_get_tsc_hz());
  return uplink;
}

absl::Status ForgetUplink(const PortConfig& port, const UplinkConfig& config) {
  return config.kind == UplinkKind::kTap ? RemoveTap(config.device, port.name) : absl::OkStatus();
}

}  // namespace everport
