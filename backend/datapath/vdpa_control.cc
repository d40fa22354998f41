#include "backend/datapath/vdpa_control.h"

#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_vdpa.h>
#include <unistd.h>

#include <cstdlib>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "backend/base/log.h"
#include "backend/datapath/eal.h"

namespace everport {
namespace {

class DpdkVdpaControl final : public VdpaControl {
 public:
  rte_vdpa_device* Find(const std::string& name) override { return rte_vdpa_find_device_by_name(name.c_str()); }

  std::vector<std::string> Names() override {
    std::vector<std::string> names;
    rte_dev_iterator iterator;
    if (rte_dev_iterator_init(&iterator, "class=vdpa") != 0) return names;
    while (const rte_device* device = rte_dev_iterator_next(&iterator)) names.emplace_back(rte_dev_name(device));
    return names;
  }

  absl::Status Probe(const std::string& devargs) override {
    CaptureDpdkLog said;
    const std::lock_guard plugging(EalHotplugMutex());
    const int error = rte_dev_probe(devargs.c_str());
    if (error == 0) return absl::OkStatus();
    return absl::UnavailableError(said.text().empty() ? rte_strerror(std::abs(error)) : said.text());
  }

  void Remove(const std::string& name) override {
    const std::lock_guard plugging(EalHotplugMutex());
    rte_device* const device = rte_vdpa_get_rte_device(Find(name));
    if (!device) return;
    if (const int error = rte_dev_remove(device); error != 0)
      spdlog::warn("vdpa {}: DPDK did not remove it: {}", name, rte_strerror(std::abs(error)));
  }

  absl::StatusOr<VdpaLimits> Limits(rte_vdpa_device* device) override {
    VdpaLimits limits;
    if (rte_vdpa_get_features(device, &limits.features) != 0 ||
        rte_vdpa_get_protocol_features(device, &limits.protocol_features) != 0 ||
        rte_vdpa_get_queue_num(device, &limits.queue_pairs) != 0)
      return absl::UnavailableError("its driver tells neither features nor queues");
    return limits;
  }

  // Names are bus addresses. What is not on the PCI bus (mlx5 also has an auxiliary one) is not seen going.
  bool Present(const std::string& name) const override {
    if (name.find(':') == std::string::npos) return true;
    return access(absl::StrCat("/sys/bus/pci/devices/", name).c_str(), F_OK) == 0;
  }
};

}  // namespace

std::shared_ptr<VdpaControl> RealVdpaControl() {
  static const auto instance = std::make_shared<DpdkVdpaControl>();
  return instance;
}

}  // namespace everport
