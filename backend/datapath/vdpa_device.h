#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/datapath/offload_device.h"
#include "backend/datapath/vdpa_control.h"

namespace everport {

// A vDPA device of a DPDK driver, claimed by one port (uplink kind "vdpa"). librte_vhost hands the guest's rings to the
// driver itself, for a connection that was made with the device attached to its socket: so it is started and stopped by
// taking the connection up anew (service/vdpa_path.h), and OffloadDevice's Start and Stop do nothing here.
//
// Positions. What the driver knows of them ends with the connection; the keeper replays split rings from used->idx,
// which is exact, as for vhost-vdpa. Packed rings' positions stand in the index page, which only pollers write:
// refused.
class VdpaDevice final : public OffloadDevice {
 public:
  // device: DPDK's name of it, with its driver's arguments if there are any ("0000:3b:02.1,vdpa=1" for ifc). Without
  // arguments "class=vdpa" is assumed. Errors name it, the cause and the mend.
  static absl::StatusOr<std::shared_ptr<VdpaDevice>> Open(const std::string& device, const std::string& port,
                                                          uint16_t queue_pairs,
                                                          std::shared_ptr<VdpaControl> control = RealVdpaControl());
  ~VdpaDevice() override;  // no connection may have it any more; may block

  const std::string& name() const { return name_; }
  rte_vdpa_device* handle() const { return handle_; }
  // Its driver did not take a guest's rings: trouble() until it is opened anew. Any thread.
  void Refuse() { refused_.store(true, std::memory_order_release); }

  // Every bit counts, also those that QEMU answers for: librte_vhost refuses SET_FEATURES with one that the driver does
  // not offer, and the keeper such a daemon.
  absl::Status Covers(uint64_t features, uint16_t queue_pairs, uint16_t ring_size) const override;
  // The same; the packed ring format, which is refused in any case, does not count.
  uint64_t Lacks(uint64_t contract_features, uint16_t queue_pairs) const override;
  absl::Status Start(const GuestRings&) override;
  absl::Status SetNotifiers(const GuestRings&) override;
  absl::Status Stop(GuestRings&) override { return absl::OkStatus(); }
  Trouble trouble() const override;
  int event_fd() const override { return -1; }

 private:
  VdpaDevice(std::string name, std::shared_ptr<VdpaControl> control)
      : name_(std::move(name)), control_(std::move(control)) {}
  absl::Status Take(const std::string& devargs, uint16_t queue_pairs);

  const std::string name_;
  const std::shared_ptr<VdpaControl> control_;
  rte_vdpa_device* handle_ = nullptr;
  VdpaLimits limits_;
  bool probed_ = false;  // by us, so that it is ours to remove
  std::atomic<bool> refused_{false};
};

}  // namespace everport
