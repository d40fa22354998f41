#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "backend/config/config.h"
#include "backend/datapath/endpoint.h"
#include "backend/datapath/guest_endpoint.h"
#include "backend/datapath/mempools.h"

namespace everport {

// An uplink that works: its endpoint and the mbufs it may hold. Destroy it only when no poller uses it. Control thread.
struct Uplink {
  // Order matters: the endpoint gives its mbufs back before the lease ends.
  std::unique_ptr<Mempools::Lease> lease;
  std::shared_ptr<Endpoint> endpoint;
  std::string description;  // "tap ep-vm1"
};

using FindGuest = std::function<std::shared_ptr<GuestEndpoint>(const std::string& port)>;

// "tap ep-vm1", "port vm2": how messages name an uplink.
std::string DescribeUplink(const UplinkConfig& uplink);

// Opens one uplink of a port on the node where the guest's memory lies (-1: unknown). Errors name the uplink, the
// cause and the mend. peers: where a wire finds the other port's guest (NotFound while there is none).
// changed: called, on any thread, when the device's trouble may be another; may only post.
absl::StatusOr<std::unique_ptr<Uplink>> OpenUplink(const PortConfig& port, const UplinkConfig& config, int node,
                                                   Mempools& mempools, const FindGuest& peers,
                                                   const std::function<void()>& changed = {});

// What an uplink leaves behind on purpose across restarts (a persistent tap) is removed with the port.
absl::Status ForgetUplink(const PortConfig& port, const UplinkConfig& config);

}  // namespace everport
