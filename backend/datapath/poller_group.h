#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "backend/datapath/poller.h"

namespace everport {

// All pollers of the process and the RCU variable that tells when each has been outside its lanes. Control thread,
// but Synchronize from any thread that is not a poller.
class PollerGroup {
 public:
  struct Spec {
    std::string cpus;  // "2" or "0-1"
    int numa_node = -1;
  };
  PollerGroup() = default;
  ~PollerGroup();
  PollerGroup(const PollerGroup&) = delete;
  PollerGroup& operator=(const PollerGroup&) = delete;

  // EAL must have been started with the same CPU lists. Poller i runs on lcore i + 1.
  absl::Status Start(const std::vector<Spec>& specs, uint32_t max_sleep_us);

  // Returns when every poller has been outside its lanes since the call (a sleeping one is).
  void Synchronize();

  const std::vector<std::unique_ptr<Poller>>& pollers() const { return pollers_; }

 private:
  std::mutex synchronize_mutex_;
  rte_rcu_qsbr* rcu_ = nullptr;
  std::vector<std::unique_ptr<Poller>> pollers_;
};

}  // namespace everport
