#include "backend/datapath/vdpa_device.h"

#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "migration/feature_contract.h"

namespace everport {
namespace {

// Without it the keeper takes no daemon: it would not know what has been done (vhost-user, REPLY_ACK).
constexpr unsigned kReplyAck = 3;
constexpr uint64_t kPacked = uint64_t{1} << kRingPacked;

// rte_vdpa lets any number of sockets have a device.
struct Claims {
  std::mutex mutex;
  std::map<std::string, std::string> port_of;  // by device name
};
Claims& claims() {
  static auto* instance = new Claims;  // devices may be closed until the process ends
  return *instance;
}

std::string Known(VdpaControl& control) {
  const std::vector<std::string> names = control.Names();
  return names.empty() ? "DPDK has no vDPA device" : absl::StrCat("DPDK has ", absl::StrJoin(names, ", "));
}

}  // namespace

absl::StatusOr<std::shared_ptr<VdpaDevice>> VdpaDevice::Open(const std::string& device, const std::string& port,
                                                             uint16_t queue_pairs,
                                                             std::shared_ptr<VdpaControl> control) {
  const std::string name = device.substr(0, device.find(','));
  {
    const std::lock_guard lock(claims().mutex);
    if (const auto [claim, made] = claims().port_of.emplace(name, port); !made) {
      return absl::AlreadyExistsError(absl::StrCat("vdpa ", name, ": in use by port ", claim->second,
                                                   "; a vDPA device belongs to one port: name another"));
    }
  }
  std::shared_ptr<VdpaDevice> opened(new VdpaDevice(name, std::move(control)));
  const bool bare = name == device;
  if (absl::Status status = opened->Take(bare ? name + ",class=vdpa" : device, queue_pairs); !status.ok())
    return status;
  return opened;
}

absl::Status VdpaDevice::Take(const std::string& devargs, uint16_t queue_pairs) {
  const std::string object = absl::StrCat("vdpa ", name_, ": ");
  handle_ = control_->Find(name_);
  if (!handle_) {
    const absl::Status probed = control_->Probe(devargs);
    if (!probed.ok()) {
      return absl::NotFoundError(absl::StrCat(
          object, "DPDK could not open it (", std::string(probed.message()), "); ", Known(*control_),
          "; name a device that `lspci -D` lists, bound as its driver in DPDK wants it (mlx5: mlx5_core; others: "
          "vfio-pci)"));
    }
    probed_ = true;
    handle_ = control_->Find(name_);
  }
  if (!handle_) {
    return absl::NotFoundError(absl::StrCat(
        object, "no vDPA driver of DPDK's took it; ", Known(*control_),
        "; give the driver its arguments behind the address if it wants any (ifc: \"", name_, ",vdpa=1\")"));
  }
  absl::StatusOr<VdpaLimits> limits = control_->Limits(handle_);
  if (!limits.ok()) return absl::UnavailableError(absl::StrCat(object, std::string(limits.status().message())));
  limits_ = *limits;
  if (!(limits_.protocol_features >> kReplyAck & 1)) {
    return absl::FailedPreconditionError(absl::StrCat(
        object, "its driver lacks VHOST_USER_PROTOCOL_F_REPLY_ACK, which the keeper needs; use vhost-vdpa ",
        "or vf with this device"));
  }
  if (limits_.queue_pairs < queue_pairs) {
    return absl::FailedPreconditionError(absl::StrCat(object, "it has ", limits_.queue_pairs,
                                                      " queue pairs and the port ", queue_pairs,
                                                      "; lower queue_pairs, or give the device more"));
  }
  return absl::OkStatus();
}

VdpaDevice::~VdpaDevice() {
  if (probed_) control_->Remove(name_);
  const std::lock_guard lock(claims().mutex);
  claims().port_of.erase(name_);
}

uint64_t VdpaDevice::Lacks(uint64_t contract_features, uint16_t) const {
  return contract_features & ~kPacked & ~limits_.features;
}

absl::Status VdpaDevice::Covers(uint64_t features, uint16_t queue_pairs, uint16_t) const {
  std::vector<std::string> faults;
  // A migration sets LOG_ALL while the device serves the guest; librte_vhost would end the session of one without.
  if (const uint64_t lacks = Lacks(features | uint64_t{1} << kVhostLogAll, queue_pairs); lacks != 0)
    faults.push_back(absl::StrCat("the device lacks ", absl::StrJoin(FeatureNames(lacks), ", ")));
  if (features & kPacked)
    faults.emplace_back(
        "the guest uses packed rings (VIRTIO_F_RING_PACKED), whose position would be lost with the device's session");
  if (queue_pairs > limits_.queue_pairs)
    faults.push_back(
        absl::StrCat("the device has ", limits_.queue_pairs, " queue pairs and the guest uses ", queue_pairs));
  if (faults.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("vdpa ", name_, " cannot serve this guest: ", absl::StrJoin(faults, "; ")));
}

absl::Status VdpaDevice::Start(const GuestRings&) {
  return absl::InternalError(absl::StrCat("vdpa ", name_, ": it is started by its session alone"));
}

absl::Status VdpaDevice::SetNotifiers(const GuestRings&) {
  return absl::InternalError(absl::StrCat("vdpa ", name_, ": it hears of eventfds by its session alone"));
}

Trouble VdpaDevice::trouble() const {
  if (!control_->Present(name_)) return Trouble::kRemoved;
  return refused_.load(std::memory_order_acquire) ? Trouble::kError : Trouble::kNone;
}

}  // namespace everport
