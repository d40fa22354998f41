#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/datapath/endpoint.h"
#include "backend/datapath/guest_endpoint.h"
#include "backend/datapath/lane_counters.h"
#include "backend/datapath/offload.h"

namespace everport {

// A port's relay: bursts from the guest's rings to the active uplink and back, through the offload stage. One poller
// owns it from Poller::Add to the acknowledgement of Poller::Remove; the endpoints outlive it.
//
// What the uplink does not take at once the lane holds, and takes nothing more from that guest queue meanwhile: a slow
// uplink slows the guest down and costs no frame, and at a switch of the path what is held goes out on the new one. An
// uplink that takes nothing for kHoldMs is full for good: then its frames are dropped until it takes some again, so
// that the guest does not stall with it.
class Lane {
 public:
  static constexpr uint64_t kHoldMs = 100;

  // What a lane works on. uplink: nullptr while the port has none that works: what the guest sends is dropped, so that
  // it does not stall. standby: uplinks that are open beside it: a NIC's switch may still send the guest's frames
  // there, so those addressed to its MAC are taken; others would be doubles.
  struct Path {
    std::shared_ptr<Endpoint> uplink;
    rte_mempool* pool = nullptr;  // of frames from the guest, and of the offload stage
    std::vector<std::shared_ptr<Endpoint>> standby;
  };

  Lane(std::string port, std::shared_ptr<GuestEndpoint> guest, const uint8_t mac[6], rte_mempool* indirect_pool,
       std::shared_ptr<LaneCounters> counters);
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // Before Poller::Add, then on the poller's thread (Poller::Apply). drain: the uplink so far works, so what it has
  // received is taken from it first, and what it has yet to send will be sent. Returns how many frames are lost that it
  // has not sent, as far as it tells. Must have been called before Poll.
  uint64_t SetPath(Path path, bool drain);

  // What the uplink took and has not sent yet, as far as it tells. The poller's thread.
  uint64_t in_flight() const { return path_.uplink ? path_.uplink->in_flight() : 0; }

  // Sends what is held, as far as the uplink takes it. true: nothing is held any more. The poller's thread.
  bool Flush();

  // Moves at most one burst per queue each way. Returns the number of frames received, or held.
  unsigned Poll();

  // Tells the network where the guest is now: a RARP for this MAC goes out with the next poll. Any thread.
  void Announce(const uint8_t mac[6]);

  // For how long the uplink has taken none of the frames that were offered to it, from the first refusal to the last: a
  // poller that gets no CPU meanwhile is no stall of the uplink. Zero if it takes them. Any thread.
  uint64_t stalled_ms() const;

  // For the poller: all that can wake it, the guest first, and a number that changes with them.
  const std::vector<Endpoint*>& endpoints() const { return endpoints_; }
  uint32_t wake_generation() const;
  const std::string& port() const { return port_; }

 private:
  // Frames from one guest queue that the uplink did not take yet, oldest first.
  struct Held {
    std::vector<rte_mbuf*> frames;
    uint64_t since = 0;     // TSC of the first refusal in a row; 0: none
    bool hopeless = false;  // for longer than kHoldMs
  };
  unsigned Discard(uint16_t guest_queue);
  unsigned FromGuest(uint16_t guest_queue, uint16_t uplink_queues);
  void SendToUplink(uint16_t guest_queue, uint16_t uplink_queue, rte_mbuf** frames, uint16_t n);
  void SendHeld(uint16_t guest_queue, uint16_t uplink_queue);
  uint16_t Offer(uint16_t guest_queue, uint16_t uplink_queue, rte_mbuf** frames, uint16_t n);
  void DropHeld(Held& held, std::atomic<uint64_t>& counter);
  void MoveHeldToNewPath();
  unsigned ToGuest(Endpoint& from, uint16_t uplink_queue, uint16_t guest_queues, bool all);
  unsigned PollStandby(uint16_t guest_queues);
  uint16_t KeepOwn(rte_mbuf** frames, uint16_t n) const;
  void DrainUplink();
  void BookOffloadDrops();
  void SendAnnouncement();

  const std::string port_;
  const std::shared_ptr<GuestEndpoint> guest_;
  const std::shared_ptr<LaneCounters> counters_;
  rte_mempool* const indirect_pool_;
  uint8_t mac_[6];
  Path path_;
  std::optional<OffloadStage> offload_;
  std::vector<Endpoint*> endpoints_;
  uint32_t path_serial_ = 0;
  unsigned rounds_ = 0;     // since the standbys were polled
  std::vector<Held> held_;  // by guest queue
  // TSC of the first refusal of all that was offered, 0: not; and of the last refusal.
  std::atomic<uint64_t> stalled_since_{0}, refused_at_{0};
  std::atomic<uint64_t> announce_{0};  // bit 48 set: pending, with the MAC below
};

}  // namespace everport
