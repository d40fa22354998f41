#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/base/unique_fd.h"

namespace everport {

// The kernel's side of network devices that uplinks stand on. Works in the process's network namespace; needs
// CAP_NET_ADMIN. Errors name the device, the cause and the mend.

// Makes sure that a tap device of that name exists and can be opened with several queues. One that is made here is
// persistent, so that its addresses, its bridge and its neighbours outlive a daemon's restart, and is marked with the
// owner in its alias.
// host_mac: of a device made here; a bridge takes the lowest for its own.
absl::Status EnsureTap(const std::string& name, const std::string& owner, const uint8_t host_mac[6]);

// One more queue of the device: non-blocking, frames with a virtio_net_hdr of 10 bytes in front.
absl::StatusOr<UniqueFd> OpenTapQueue(const std::string& name);

// Removes a tap that EnsureTap made for that owner; leaves any other alone.
absl::Status RemoveTap(const std::string& name, const std::string& owner);

// Puts the device into the bridge; nothing to do if it is there. NotFound without such a bridge.
absl::Status JoinBridge(const std::string& name, const std::string& bridge);

// NotFound when there is no such network device in this namespace.
absl::Status CheckNetdev(const std::string& name);
absl::Status SetUp(const std::string& name);
absl::Status SetMtu(const std::string& name, uint16_t mtu);
// FailedPrecondition when the device's MTU is less.
absl::Status CheckMtu(const std::string& name, uint16_t mtu);

}  // namespace everport
