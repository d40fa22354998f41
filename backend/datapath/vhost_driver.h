#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "backend/datapath/guest_endpoint.h"
#include "migration/feature_contract.h"

namespace everport {

// One vhost-user socket that librte_vhost connects to as a client and reconnects by itself: the keeper's, or QEMU's
// own (keeper = false). Control thread. Its events go to the guest endpoint, which must outlive it.
class VhostDriver {
 public:
  // Unavailable or InvalidArgument (the contract offers what this librte_vhost lacks) name the port and the socket.
  static absl::StatusOr<std::unique_ptr<VhostDriver>> Start(const std::string& port, const std::string& socket,
                                                            const FeatureContract& contract,
                                                            std::shared_ptr<GuestEndpoint> guest);
  // Ends the connection; returns when no callback will come any more. No lane of the guest may be left.
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
