#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "backend/datapath/guest_endpoint.h"
#include "migration/feature_contract.h"

struct rte_vdpa_device;

namespace everport {

// One vhost-user socket that librte_vhost connects to as a client and reconnects by itself: the keeper's, or QEMU's
// own (keeper = false). One thread at a time. Its events go to the guest endpoint, which must outlive it.
class VhostDriver {
 public:
  // vdpa: handed the guest's rings by librte_vhost, in place of its own data path, once the guest runs; nullptr: none.
  // A driver that refuses them tells the guest endpoint so (vdpa_refused).
  // Unavailable or InvalidArgument (the contract offers what this librte_vhost lacks) name the port and the socket.
  static absl::StatusOr<std::unique_ptr<VhostDriver>> Start(const std::string& port, const std::string& socket,
                                                            const FeatureContract& contract,
                                                            std::shared_ptr<GuestEndpoint> guest,
                                                            rte_vdpa_device* vdpa = nullptr);
  // Ends the connection, and waits for the attached device's driver to let go of the guest; returns when no callback
  // will come any more. No lane of the guest may be left.
  ~VhostDriver();
  VhostDriver(const VhostDriver&) = delete;
  VhostDriver& operator=(const VhostDriver&) = delete;

 private:
  VhostDriver(std::string port, std::string socket) : port_(std::move(port)), socket_(std::move(socket)) {}
  absl::Status Offer(const FeatureContract& contract);

  const std::string port_;
  const std::string socket_;
  bool registered_ = false;
};

}  // namespace everport
