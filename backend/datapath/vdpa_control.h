#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct rte_vdpa_device;

namespace everport {

// What a vDPA driver of DPDK's says of its device.
struct VdpaLimits {
  uint64_t features = 0;           // virtio and vhost feature bits
  uint64_t protocol_features = 0;  // bits of vhost_user::ProtocolFeature
  uint32_t queue_pairs = 0;
};

// DPDK's vDPA devices, as far as rte_vdpa tells of them; another implementation for tests. Present comes from any
// thread, the others from one at a time and may block: probing a device takes seconds.
class VdpaControl {
 public:
  virtual ~VdpaControl() = default;
  // nullptr: DPDK has no vDPA device of that name.
  virtual rte_vdpa_device* Find(const std::string& name) = 0;
  // Those that Find would find.
  virtual std::vector<std::string> Names() = 0;
  // Has DPDK take the device, with its arguments as rte_dev_probe wants them: "0000:3b:02.1,class=vdpa". The error is
  // DPDK's own account.
  virtual absl::Status Probe(const std::string& devargs) = 0;
  // The end of what Probe began. Nobody may use the device any more.
  virtual void Remove(const std::string& name) = 0;
  virtual absl::StatusOr<VdpaLimits> Limits(rte_vdpa_device* device) = 0;
  // Whether the hardware is still there: rte_vdpa has no event that tells.
  virtual bool Present(const std::string& name) const = 0;
};

std::shared_ptr<VdpaControl> RealVdpaControl();

}  // namespace everport
