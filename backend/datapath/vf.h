#pragma once

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "backend/config/config.h"
#include "backend/datapath/ethdev_endpoint.h"
#include "backend/host/pci_device.h"

namespace everport {

// The uplink kind "vf": an SR-IOV virtual function that DPDK drives. These block for some 100 ms (VFIO resets the
// device); one thread at a time.

inline constexpr uint16_t kVfDescriptors = 512;  // wanted per queue
// Both rings' mbufs, with as many again under way between pollers.
inline constexpr unsigned kVfMbufsPerQueue = 3 * kVfDescriptors;

// Looks at the device, binds it to vfio-pci if the operator asks for that, and sees to it that DPDK can open it.
absl::StatusOr<PciDevice> PrepareVfDevice(const UplinkConfig& config);

// Opens it and has the frames for the port's MAC come to it.
absl::StatusOr<std::unique_ptr<EthdevEndpoint>> OpenVfEndpoint(const PortConfig& port, const PciDevice& device,
                                                               rte_mempool* pool, std::function<void()> changed);

}  // namespace everport
