#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "backend/config/config.h"
#include "backend/datapath/ethdev_endpoint.h"

namespace everport {

// The uplink kind "virtio-user": a tap that the kernel's vhost-net serves, through DPDK's virtio driver. The tap is
// made when the uplink is opened and goes when it is closed.

inline constexpr uint16_t kVirtioUserDescriptors = 1024;
inline constexpr unsigned kVirtioUserMbufsPerQueue = 3 * kVirtioUserDescriptors;

// vdev: a name for EAL that no other device has, net_virtio_user….
absl::StatusOr<std::unique_ptr<EthdevEndpoint>> OpenVirtioUserEndpoint(const PortConfig& port,
                                                                       const UplinkConfig& config,
                                                                       const std::string& vdev, rte_mempool* pool,
                                                                       int node, std::function<void()> changed);

}  // namespace everport
