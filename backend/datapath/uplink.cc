#include "backend/datapath/uplink.h"

#include <rte_ethdev.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "backend/datapath/ethdev_endpoint.h"
#include "backend/datapath/tap_device.h"
#include "backend/datapath/wire_endpoint.h"

namespace everport {
namespace {

// The mbufs a receive queue may keep, with as many again under way between pollers.
constexpr unsigned kMbufsPerQueue = 2 * EthdevEndpoint::kDescriptors;
constexpr unsigned kXdpMbufsPerQueue = 8192;  // its UMEM: fill and completion rings of 4096 each (net_af_xdp)

// EAL's device names are unique for the life of the process, whatever ports come and go.
std::string VdevName(const char* driver) {
  static unsigned serial = 0;  // control thread
  return absl::StrCat(driver, serial++);
}

// The host's end of a tap needs a MAC of its own: the guest's with 0xfe in front, as libvirt does it, which is also
// higher than any real one, so that a bridge does not take it for its own.
std::string HostMac(const std::string& guest_mac) {
  return absl::StrCat("fe", guest_mac.substr(2));
}

struct Device {
  std::string devargs;
  bool promiscuous = true;
  bool own_pool = false;
};

absl::StatusOr<Device> PrepareTap(const PortConfig& port, const UplinkConfig& config) {
  if (absl::Status status = EnsureTap(config.device, port.name); !status.ok()) return status;
  return Device{absl::StrCat(VdevName("net_tap"), ",iface=", config.device, ",mac=", HostMac(port.mac)), false};
}

absl::StatusOr<Device> PrepareAfPacket(const PortConfig& port, const UplinkConfig& config) {
  if (absl::Status status = CheckNetdev(config.device); !status.ok()) return status;
  if (absl::Status status = SetUp(config.device); !status.ok()) return status;
  std::string args = absl::StrCat(VdevName("net_af_packet"), ",iface=", config.device, ",qpairs=", port.queue_pairs);
  // A frame and its packet(7) header must fit: 2 KiB by default.
  if (port.mtu > 1900) absl::StrAppend(&args, ",blocksz=65536,framesz=16384,framecnt=512");
  return Device{args};
}

absl::StatusOr<Device> PrepareAfXdp(const PortConfig&, const UplinkConfig& config) {
  if (absl::Status status = CheckNetdev(config.device); !status.ok()) return status;
  if (absl::Status status = SetUp(config.device); !status.ok()) return status;
  return Device{absl::StrCat(VdevName("net_af_xdp"), ",iface=", config.device), true, true};
}

absl::StatusOr<Device> PrepareVdev(const UplinkConfig& config) {
  const std::string name(*absl::StrSplit(config.device, ',').begin());
  uint16_t id;
  if (rte_eth_dev_get_port_by_name(name.c_str(), &id) == 0)
    return absl::AlreadyExistsError(absl::StrCat("vdev ", name, " is in use by another port; give it another number"));
  return Device{config.device};
}

absl::StatusOr<Device> Prepare(const PortConfig& port, const UplinkConfig& config) {
  switch (config.kind) {
    case UplinkKind::kTap:
      return PrepareTap(port, config);
    case UplinkKind::kAfPacket:
      return PrepareAfPacket(port, config);
    case UplinkKind::kAfXdp:
      return PrepareAfXdp(port, config);
    case UplinkKind::kVdev:
      return PrepareVdev(config);
    case UplinkKind::kPort:
    case UplinkKind::kVf:
    case UplinkKind::kVdpa:
    case UplinkKind::kVhostVdpa:
    case UplinkKind::kVirtioUser:
      break;
  }
  return absl::UnimplementedError(absl::StrCat(
      DescribeUplink(config), ": not available yet in this version; use tap, af_packet, af_xdp, vdev or port"));
}

absl::StatusOr<std::unique_ptr<Uplink>> OpenWire(const PortConfig& port, const UplinkConfig& config, int node,
                                                 Mempools& mempools, const FindGuest& peers) {
  std::shared_ptr<GuestEndpoint> peer = peers(config.device);
  if (!peer) {
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

absl::StatusOr<std::unique_ptr<Uplink>> OpenEthdev(const PortConfig& port, const UplinkConfig& config, int node,
                                                   Mempools& mempools) {
  absl::StatusOr<Device> device = Prepare(port, config);
  if (!device.ok()) return device.status();
  auto lease = mempools.Reserve(node, (device->own_pool ? kXdpMbufsPerQueue : kMbufsPerQueue) * port.queue_pairs,
                                device->own_pool);
  if (!lease.ok()) return lease.status();
  auto uplink = std::make_unique<Uplink>();
  uplink->lease = std::move(*lease);
  auto endpoint = EthdevEndpoint::Open({.device = DescribeUplink(config),
                                        .devargs = device->devargs,
                                        .queue_pairs = port.queue_pairs,
                                        .mtu = port.mtu,
                                        .promiscuous = device->promiscuous,
                                        .pool = uplink->lease->pool(),
                                        .numa_node = node});
  if (!endpoint.ok()) return endpoint.status();
  uplink->endpoint = std::move(*endpoint);
  if (!config.bridge.empty()) {
    if (absl::Status status = JoinBridge(config.device, config.bridge); !status.ok()) return status;
  }
  return uplink;
}

}  // namespace

std::string DescribeUplink(const UplinkConfig& uplink) {
  return absl::StrCat(std::string(UplinkKindName(uplink.kind)), " ", uplink.device);
}

absl::StatusOr<std::unique_ptr<Uplink>> OpenUplink(const PortConfig& port, const UplinkConfig& config, int node,
                                                   Mempools& mempools, const FindGuest& peers) {
  auto uplink = config.kind == UplinkKind::kPort ? OpenWire(port, config, node, mempools, peers)
                                                 : OpenEthdev(port, config, node, mempools);
  if (uplink.ok()) (*uplink)->description = DescribeUplink(config);
  return uplink;
}

absl::Status ForgetUplink(const PortConfig& port, const UplinkConfig& config) {
  return config.kind == UplinkKind::kTap ? RemoveTap(config.device, port.name) : absl::OkStatus();
}

}  // namespace everport
