#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/base/unique_fd.h"
#include "backend/datapath/endpoint.h"

struct rte_mempool;

namespace everport {

// A tap device by its own file descriptors, one a queue, rather than by DPDK's net_tap: frames carry a virtio_net_hdr
// (IFF_VNET_HDR), so that checksums and TCP segments of 64 KiB pass between guest and host kernel untouched; jumbo
// frames work; each queue's descriptor wakes a sleeping poller.
class TapEndpoint : public Endpoint {
 public:
  struct Options {
    std::string name;  // of the network device; made by EnsureTap
    uint16_t queue_pairs = 1;
    uint16_t mtu = 1500;  // set on the device
    rte_mempool* pool = nullptr;
  };
  // Attaches to the device, which is set up. Errors name the device, the cause and the mend.
  static absl::StatusOr<std::unique_ptr<TapEndpoint>> Open(const Options& options);
  ~TapEndpoint() override;

  uint16_t receive_queues() const override { return static_cast<uint16_t>(queues_.size()); }
  uint16_t transmit_queues() const override { return static_cast<uint16_t>(queues_.size()); }
  OffloadCaps transmit_caps() const override;
  void set_receive_caps(const OffloadCaps& caps) override;
  uint16_t Receive(uint16_t queue, rte_mbuf** frames, uint16_t n) override;
  uint16_t Transmit(uint16_t queue, rte_mbuf** frames, uint16_t n) override;
  void ArmWake() override {}
  void DisarmWake() override {}
  std::vector<WakeFd> WakeFds(bool& complete) override;
  uint64_t refused() const override { return refused_.load(std::memory_order_relaxed); }
  uint32_t wake_generation() const override { return gone_.load(std::memory_order_relaxed) ? 1 : 0; }
  Trouble trouble() const override {
    return gone_.load(std::memory_order_relaxed) ? Trouble::kRemoved : Trouble::kNone;
  }

 private:
  // The mbufs the next frame is read into: enough for the longest the kernel may hand out.
  struct Queue {
    UniqueFd fd;
    std::vector<rte_mbuf*> buffers;
  };
  TapEndpoint(std::string name, uint16_t mtu, rte_mempool* pool) : name_(std::move(name)), mtu_(mtu), pool_(pool) {}
  bool Refill(Queue& queue) const;
  enum class ReadResult { kFrame, kRefused, kNothing };
  ReadResult ReadOne(Queue& queue, rte_mbuf** frame);
  enum class WriteResult { kSent, kRefused, kFull };
  WriteResult WriteOne(const Queue& queue, rte_mbuf* frame);
  size_t buffers_per_frame() const;

  const std::string name_;
  const uint16_t mtu_;
  rte_mempool* const pool_;
  bool large_receive_ = false;
  std::atomic<bool> gone_{false};  // somebody deleted the device
  std::atomic<uint64_t> refused_{0};
  std::vector<Queue> queues_;
};

}  // namespace everport
