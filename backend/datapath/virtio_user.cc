#include "backend/datapath/virtio_user.h"

#include <net/if.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/datapath/tap_device.h"

namespace everport {
namespace {

constexpr char kVhostNet[] = "/dev/vhost-net";

absl::Status CheckHost(const std::string& object, const UplinkConfig& config) {
  if (access(kVhostNet, R_OK | W_OK) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(object, ": ", kVhostNet, ": ", std::strerror(errno),
                     errno == ENOENT ? "; run: modprobe vhost_net" : "; let everportd read and write it"));
  }
  // DPDK would take a tap that is there, and whoever uses it would lose it.
  if (if_nametoindex(config.device.c_str()) != 0) {
    return absl::AlreadyExistsError(absl::StrCat(object,
                                                 ": a network device of that name is there already, and this "
                                                 "kind makes its own; ip link del ",
                                                 config.device, ", or choose another name"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<EthdevEndpoint>> OpenVirtioUserEndpoint(const PortConfig& port,
                                                                       const UplinkConfig& config,
                                                                       const std::string& vdev, rte_mempool* pool,
                                                                       int node, std::function<void()> changed) {
  const std::string object = absl::StrCat("virtio-user ", config.device);
  if (absl::Status status = CheckHost(object, config); !status.ok()) return status;
  // The host's end has an address of its own, as a tap's (uplink.cc, OpenTap).
  uint8_t host_mac[6] = {};
  if (!ParseMac(port.mac, host_mac)) return absl::InternalError(absl::StrCat("port ", port.name, ": MAC ", port.mac));
  host_mac[0] = 0xfe;
  auto endpoint = EthdevEndpoint::Open(
      {.device = object,
       .devargs = absl::StrCat(vdev, ",path=", kVhostNet, ",iface=", config.device, ",queues=", port.queue_pairs,
                               ",queue_size=", kVirtioUserDescriptors, ",mac=", FormatMac(host_mac)),
       .mend = "everportd needs CAP_NET_ADMIN, /dev/net/tun (modprobe tun) and /dev/vhost-net (modprobe vhost_net)",
       .queue_pairs = port.queue_pairs,
       .mtu = port.mtu,
       .promiscuous = false,
       .pool = pool,
       .numa_node = node,
       .descriptors = kVirtioUserDescriptors,
       .offloads = true,
       .follow_link = false,
       .edge_wakes = true,
       .changed = std::move(changed)});
  if (!endpoint.ok()) return endpoint;
  if (absl::Status status = SetMtu(config.device, port.mtu); !status.ok()) return status;
  if (absl::Status status = SetUp(config.device); !status.ok()) return status;
  if (config.bridge.empty()) return endpoint;
  if (absl::Status status = JoinBridge(config.device, config.bridge); !status.ok()) return status;
  return endpoint;
}

}  // namespace everport
