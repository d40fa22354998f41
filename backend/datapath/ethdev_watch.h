#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "failover/health_monitor.h"

namespace everport {

// What an ethdev's driver tells of its device, gathered. Made before the ethdev is started, destroyed before it is
// stopped. trouble() may be called from any thread meanwhile.
//
// Sources: the link (by interrupt where the driver has one); removal and reset events of the driver
// (rte_eth_dev_callback_register); VFIO's request to let the device go, which the kernel makes when its driver is
// unbound or the device removed, and then waits for (rte_dev_event_callback_register).
class EthdevWatch {
 public:
  // device: EAL's name of it. follow_link: its link state means that frames get through.
  // reset: asked while there is no link, if it is given: whether whoever took the link away has reset the device with
  // it. changed: called on a thread of EAL's when trouble() may have changed; may only post.
  EthdevWatch(uint16_t ethdev_id, std::string device, bool follow_link, std::function<bool()> reset,
              std::function<void()> changed);
  ~EthdevWatch();
  EthdevWatch(const EthdevWatch&) = delete;
  EthdevWatch& operator=(const EthdevWatch&) = delete;

  // The worst there is. Reads a register of the device if it has no link interrupt, but never once it has gone.
  Trouble trouble() const;

  void OnRemoved();  // these from any thread
  void OnReset();
  void OnRecovering(bool recovering);
  void OnChanged();

 private:
  const uint16_t ethdev_id_;
  const std::string device_;
  const bool follow_link_;
  const std::function<bool()> reset_;
  const std::function<void()> changed_;
  std::atomic<bool> removed_{false}, recovering_{false};
  mutable std::atomic<bool> needs_reset_{false};
};

}  // namespace everport
