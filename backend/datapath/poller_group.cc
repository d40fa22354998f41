#include "backend/datapath/poller_group.h"

#include <rte_malloc.h>
#include <rte_rcu_qsbr.h>

namespace everport {

absl::Status PollerGroup::Start(const std::vector<Spec>& specs, uint32_t max_sleep_us) {
  const auto threads = static_cast<uint32_t>(specs.size());
  rcu_ =
      static_cast<rte_rcu_qsbr*>(rte_zmalloc("everport_rcu", rte_rcu_qsbr_get_memsize(threads), RTE_CACHE_LINE_SIZE));
  if (!rcu_ || rte_rcu_qsbr_init(rcu_, threads) != 0)
    return absl::ResourceExhaustedError("pollers: no memory for the RCU variable");
  for (size_t i = 0; i < specs.size(); ++i) {
    pollers_.push_back(std::make_unique<Poller>(static_cast<int>(i), static_cast<unsigned>(i + 1), specs[i].cpus,
                                                specs[i].numa_node, max_sleep_us, rcu_));
    if (absl::Status status = pollers_.back()->Start(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

PollerGroup::~PollerGroup() {
  pollers_.clear();
  rte_free(rcu_);
}

void PollerGroup::Synchronize() {
  // One at a time: who finds that another has waited for him (rte_rcu_qsbr's acked_token) has no order with the
  // pollers.
  const std::lock_guard lock(synchronize_mutex_);
  // rte_rcu_qsbr_synchronize does the same, but inside the library, where ThreadSanitizer does not see it.
  if (rcu_) rte_rcu_qsbr_check(rcu_, rte_rcu_qsbr_start(rcu_), /*wait=*/true);
}

}  // namespace everport
