#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/datapath/endpoint.h"
#include "backend/datapath/ethdev_watch.h"

struct rte_eth_dev_info;
struct rte_mempool;

namespace everport {

// An ethdev, configured and started; stopped and closed when destroyed (which removes it from EAL).
// Made and destroyed on one thread at a time, after every poller has let go of it.
class EthdevEndpoint : public Endpoint {
 public:
  struct Options {
    std::string device;        // as the operator knows it, for messages: "tap ep-vm1"
    std::string bus = "vdev";  // EAL's: vdev or pci
    std::string devargs;       // of the EAL device to plug in: "net_tap0,iface=ep-vm1", "0000:3b:02.1"
    std::string mend;          // when DPDK cannot work with it: "use …"
    uint16_t queue_pairs = 1;  // wanted; fewer are used when the device has fewer
    uint16_t mtu = 1500;
    bool promiscuous = true;
    rte_mempool* pool = nullptr;
    int numa_node = -1;
    uint16_t descriptors = kDescriptors;
    bool offloads = false;               // checksums and TSO by the device as far as it can; else plain frames alone
    bool follow_link = true;             // whether its link state tells if frames get through
    bool edge_wakes = false;             // its interrupts come by eventfds that nobody reads
    std::function<bool()> reset = {};    // EthdevWatch's
    std::function<void()> changed = {};  // trouble() may have changed; called on a thread of EAL's: may only post
  };
  // Plugs the device in and starts it. NotFound, Unavailable and so on name the device, what failed and the mend.
  static absl::StatusOr<std::unique_ptr<EthdevEndpoint>> Open(const Options& options);
  ~EthdevEndpoint() override;

  uint16_t receive_queues() const override { return rx_queues_; }
  uint16_t transmit_queues() const override { return tx_queues_; }
  OffloadCaps transmit_caps() const override { return caps_; }
  uint16_t Receive(uint16_t queue, rte_mbuf** frames, uint16_t n) override;
  uint16_t Transmit(uint16_t queue, rte_mbuf** frames, uint16_t n) override;
  void ArmWake() override;
  void DisarmWake() override;
  std::vector<WakeFd> WakeFds(bool& complete) override;
  uint32_t wake_generation() const override { return 0; }
  uint64_t refused() const override { return refused_.load(std::memory_order_relaxed); }
  // A removed device's registers are not read. Any thread.
  Trouble trouble() const override { return watch_->trouble(); }
  // Software devices finish with a frame when they take it. Drivers that have the device report in groups may count up
  // to a group too many.
  uint64_t in_flight() const override;

  uint16_t ethdev_id() const { return ethdev_id_; }
  int numa_node() const { return numa_node_; }

  static constexpr uint16_t kDescriptors = 256;  // wanted per queue

 private:
  EthdevEndpoint(const Options& options, std::string eal_name, uint16_t ethdev_id);
  absl::Status Start(const Options& options);
  absl::Status Configure(const Options& options, const rte_eth_dev_info& info);
  uint64_t ChooseOffloads(const Options& options, const rte_eth_dev_info& info);
  bool InterruptsWork() const;
  static uint16_t MakeSingle(rte_mbuf** frames, uint16_t n);
  absl::Status Failed(const char* what, int error) const;

  const std::string device_;
  const std::string bus_;
  const std::string eal_name_;
  const uint16_t ethdev_id_;
  uint16_t rx_queues_ = 0, tx_queues_ = 0;
  uint16_t tx_descriptors_ = 0;
  bool multi_segment_ = true;
  bool prepare_ = false;  // the driver wants to see frames that ask for something before they are sent
  bool rx_interrupts_ = false;
  const bool edge_wakes_;
  int numa_node_ = -1;
  OffloadCaps caps_{};
  std::atomic<uint64_t> refused_{0};
  std::unique_ptr<EthdevWatch> watch_;
};

}  // namespace everport
