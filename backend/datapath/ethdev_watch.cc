#include "backend/datapath/ethdev_watch.h"

#include <rte_dev.h>
#include <rte_ethdev.h>

#include <cerrno>
#include <thread>
#include <utility>

#include "backend/base/log.h"

namespace everport {
namespace {

// In the order in which they are registered and unregistered.
constexpr rte_eth_event_type kEvents[] = {RTE_ETH_EVENT_INTR_LSC,         RTE_ETH_EVENT_INTR_RMV,
                                          RTE_ETH_EVENT_INTR_RESET,       RTE_ETH_EVENT_ERR_RECOVERING,
                                          RTE_ETH_EVENT_RECOVERY_SUCCESS, RTE_ETH_EVENT_RECOVERY_FAILED};

int OnEthdevEvent(uint16_t, rte_eth_event_type event, void* watch, void*) {
  auto* self = static_cast<EthdevWatch*>(watch);
  switch (event) {
    case RTE_ETH_EVENT_INTR_RMV:
      self->OnRemoved();
      break;
    case RTE_ETH_EVENT_INTR_RESET:
    case RTE_ETH_EVENT_RECOVERY_FAILED:
      self->OnReset();
      break;
    case RTE_ETH_EVENT_ERR_RECOVERING:
    case RTE_ETH_EVENT_RECOVERY_SUCCESS:
      self->OnRecovering(event == RTE_ETH_EVENT_ERR_RECOVERING);
      break;
    default:
      self->OnChanged();
  }
  return 0;
}

void OnDeviceEvent(const char*, rte_dev_event_type event, void* watch) {
  if (event == RTE_DEV_EVENT_REMOVE) static_cast<EthdevWatch*>(watch)->OnRemoved();
}

}  // namespace

EthdevWatch::EthdevWatch(uint16_t ethdev_id, std::string device, bool follow_link, std::function<bool()> reset,
                         std::function<void()> changed)
    : ethdev_id_(ethdev_id),
      device_(std::move(device)),
      follow_link_(follow_link),
      reset_(std::move(reset)),
      changed_(std::move(changed)) {
  for (const rte_eth_event_type event : kEvents) rte_eth_dev_callback_register(ethdev_id_, event, OnEthdevEvent, this);
  if (int error = rte_dev_event_callback_register(device_.c_str(), OnDeviceEvent, this); error != 0)
    spdlog::warn("{}: its removal will not be noticed: {}", device_, rte_strerror(-error));
}

EthdevWatch::~EthdevWatch() {
  // Busy while a call is under way on a thread of EAL's.
  while (rte_dev_event_callback_unregister(device_.c_str(), OnDeviceEvent, this) == -EAGAIN) std::this_thread::yield();
  for (const rte_eth_event_type event : kEvents) {
    while (rte_eth_dev_callback_unregister(ethdev_id_, event, OnEthdevEvent, this) == -EAGAIN)
      std::this_thread::yield();
  }
}

Trouble EthdevWatch::trouble() const {
  if (removed_.load(std::memory_order_acquire)) return Trouble::kRemoved;
  if (needs_reset_.load(std::memory_order_acquire)) return Trouble::kNeedsReset;
  if (recovering_.load(std::memory_order_acquire)) return Trouble::kError;
  if (!follow_link_) return Trouble::kNone;
  rte_eth_link link{};
  if (rte_eth_link_get_nowait(ethdev_id_, &link) != 0) return Trouble::kNone;  // the driver knows of no link
  if (link.link_status == RTE_ETH_LINK_UP) return Trouble::kNone;
  if (!reset_ || !reset_()) return Trouble::kLinkDown;
  needs_reset_.store(true, std::memory_order_release);
  return Trouble::kNeedsReset;
}

void EthdevWatch::OnChanged() {
  if (changed_) changed_();
}
void EthdevWatch::OnRemoved() {
  removed_.store(true, std::memory_order_release);
  OnChanged();
}
void EthdevWatch::OnReset() {
  needs_reset_.store(true, std::memory_order_release);
  OnChanged();
}
void EthdevWatch::OnRecovering(bool recovering) {
  recovering_.store(recovering, std::memory_order_release);
  OnChanged();
}

}  // namespace everport
