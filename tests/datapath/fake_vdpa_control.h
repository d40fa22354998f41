#pragma once

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "backend/datapath/vdpa_control.h"

namespace everport {

// vDPA devices that a test makes up. Their handles point nowhere.
class FakeVdpaControl : public VdpaControl {
 public:
  rte_vdpa_device* Find(const std::string& name) override {
    const auto found = devices.find(name);
    return found == devices.end() ? nullptr : reinterpret_cast<rte_vdpa_device*>(&found->second);
  }
  std::vector<std::string> Names() override {
    std::vector<std::string> names;
    for (const auto& [name, limits] : devices) names.push_back(name);
    return names;
  }
  absl::Status Probe(const std::string& devargs) override {
    probed.push_back(devargs);
    const std::string name = devargs.substr(0, devargs.find(','));
    if (!probe_error.ok()) return probe_error;
    if (const auto found = hidden.find(name); found != hidden.end()) devices.insert(*found);
    return absl::OkStatus();
  }
  void Remove(const std::string& name) override {
    removed.push_back(name);
    devices.erase(name);
  }
  absl::StatusOr<VdpaLimits> Limits(rte_vdpa_device* device) override { return *reinterpret_cast<VdpaLimits*>(device); }
  bool Present(const std::string& name) const override { return !gone.contains(name); }

  std::map<std::string, VdpaLimits> devices;  // that DPDK knows
  std::map<std::string, VdpaLimits> hidden;   // that it knows once it is told to look
  std::set<std::string> gone;                 // of which the hardware has been pulled
  absl::Status probe_error;
  std::vector<std::string> probed, removed;
};

}  // namespace everport
