#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "backend/config/config.h"
#include "backend/datapath/endpoint.h"
#include "backend/datapath/guest_endpoint.h"
#include "backend/datapath/mempools.h"
#include "backend/datapath/offload_device.h"
#include "backend/datapath/vdpa_device.h"
#include "backend/datapath/wire_endpoint.h"

namespace everport {

// An uplink that works: its endpoint and the mbufs it may hold. Destroy it only when no poller uses it; where it was
// opened.
struct Uplink {
  // Order matters: the endpoint gives its mbufs back before the lease ends.
  std::unique_ptr<Mempools::Lease> lease;
  std::shared_ptr<Endpoint> endpoint;      // relay; nullptr for an offload device
  std::shared_ptr<OffloadDevice> offload;  // offload; nullptr for a relay
  std::shared_ptr<VdpaDevice> vdpa;        // the same device if it is started by its session
  double opening_ms = 0;                   // that opening it took

  Trouble trouble() const { return offload ? offload->trouble() : endpoint->trouble(); }
};

// A port's end of a wire; without a guest if there is no such port.
using FindGuest = std::function<WirePeer(const std::string& port)>;

// "tap ep-vm1", "port vm2": how messages name an uplink.
std::string DescribeUplink(const UplinkConfig& uplink);

// Whether opening takes no longer than a control thread can wait. Others are opened by a device thread.
bool OpensQuickly(UplinkKind kind);
// Whether its device's health must be asked for, rather than that the kernel tells of its network device.
bool NeedsPolling(UplinkKind kind);

// Opens one uplink of a port on the node where the guest's memory lies (-1: unknown). Errors name the uplink, the
// cause and the mend. peers: where a wire finds the other port's guest (NotFound while there is none).
// Any thread, one at a time but for kinds that OpensQuickly; peers is called for wires alone.
// changed: called, on any thread, when the device's trouble may be another; may only post.
absl::StatusOr<std::unique_ptr<Uplink>> OpenUplink(const PortConfig& port, const UplinkConfig& config, int node,
                                                   Mempools& mempools, const FindGuest& peers,
                                                   const std::function<void()>& changed = {});

// What an uplink leaves behind on purpose across restarts (a persistent tap) is removed with the port.
absl::Status ForgetUplink(const PortConfig& port, const UplinkConfig& config);

}  // namespace everport
