#pragma once

#include <string>

#include "absl/status/status.h"

namespace everport {

// The kernel's side of network devices that uplinks stand on. Works in the process's network namespace; needs
// CAP_NET_ADMIN. Errors name the device, the cause and the mend.

// Makes sure that a tap device of that name exists and can be opened with several queues. One that is made here is
// persistent, so that its addresses, its bridge and its neighbours outlive a daemon's restart, and is marked with the
// owner in its alias.
absl::Status EnsureTap(const std::string& name, const std::string& owner);

// Removes a tap that EnsureTap made for that owner; leaves any other alone.
absl::Status RemoveTap(const std::string& name, const std::string& owner);

// Puts the device into the bridge; nothing to do if it is there. NotFound without such a bridge.
absl::Status JoinBridge(const std::string& name, const std::string& bridge);

// NotFound when there is no such network device in this namespace.
absl::Status CheckNetdev(const std::string& name);
absl::Status SetUp(const std::string& name);

}  // namespace everport
