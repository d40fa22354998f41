#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/base/unique_fd.h"
#include "backend/datapath/endpoint.h"
#include "backend/datapath/guest_rings.h"
#include "backend/datapath/index_page_map.h"
#include "backend/datapath/log_gate.h"
#include "backend/keeper/index_page.h"
#include "migration/dirty_log.h"
#include "migration/feature_contract.h"

struct rte_mempool;

namespace everport {

struct PackedDesc;

// The guest's rings, by librte_vhost's built-in net data path. Vring 2q is queue pair q towards the guest (Transmit),
// 2q + 1 from it (Receive).
//
// Threads: the On… calls come from librte_vhost's event thread, Receive/Transmit from the pollers, the rest from the
// control thread. `vid` and the enabled mask are what the pollers look at before each burst; when the device goes,
// OnDestroyDevice clears vid and waits (synchronize) until every poller has been seen outside, and only then may
// librte_vhost free it.
class GuestEndpoint : public Endpoint {
 public:
  struct Hooks {
    std::function<void()> changed;      // any state below changed; event thread; must only post
    std::function<void()> synchronize;  // returns when no poller uses what it read before the call
  };
  // index_page: where packed rings' progress is written (keeper mode), or nullptr. max_queue_pairs: of the port.
  GuestEndpoint(std::string port, uint16_t max_queue_pairs, std::shared_ptr<IndexPageMap> index_page, Hooks hooks);
  ~GuestEndpoint() override;

  // Endpoint
  uint16_t receive_queues() const override;
  uint16_t transmit_queues() const override;
  OffloadCaps transmit_caps() const override;
  uint16_t Receive(uint16_t queue, rte_mbuf** frames, uint16_t n) override;
  uint16_t Transmit(uint16_t queue, rte_mbuf** frames, uint16_t n) override;
  void ArmWake() override { SetNotification(true); }
  void DisarmWake() override { SetNotification(false); }
  std::vector<WakeFd> WakeFds(bool& complete) override;
  uint32_t wake_generation() const override { return generation_.load(std::memory_order_acquire); }

  // The pool that frames from the guest are made of. By the lane, on its poller's thread or before it has one.
  void set_pool(rte_mempool* pool) { pool_ = pool; }
  // The port's MTU: what another guest may send to this one.
  void set_mtu(uint16_t mtu) { mtu_ = mtu; }

  // The end: no poller uses the guest's rings any more when this returns, and events that still come are ignored.
  // Control thread, before librte_vhost is told to unregister the socket: that call holds librte_vhost's own mutex
  // while it destroys the device, and waiting for pollers in there could wait for ever (an event for another device
  // that wants the mutex holds the locks of vrings that a poller wants).
  void Retire();
  // After Retire, once librte_vhost has let go of the socket: a connection that comes next counts again.
  void Revive();

  // For a device that will work on the rings itself, or has done so; no poller may use them meanwhile. Control thread.
  // FailedPrecondition when the guest's device is not running.
  absl::StatusOr<GuestRings> Rings();
  void SetPositions(const GuestRings& rings);
  // A device works on the rings, or will: until it is told otherwise nobody here sends to the guest or receives from
  // it, another port's wire included. No poller is in the rings any more when it returns.
  void SetServedByDevice(bool served);
  // From now on an offload device uses the rings: `stop` makes it let go and tells where it has come to. Called at most
  // once, by librte_vhost's event thread, before rings and memory go away, or before the front-end's dirty log counts
  // if the device does not write to that (`logs`). False: it would have to stop at once. hurry: it need not be waited
  // for as long as a device may take. Empty rings: nothing is known of their positions, and whoever set the hook sees
  // to what comes next.
  using StopOffload = std::function<GuestRings(bool hurry)>;
  bool SetOffload(StopOffload stop, bool logs);
  // It does not use them any more. True: `stop` will not be called, and what it would have told is the caller's to set
  // (SetPositions, SetServedByDevice). False: it has been, or is being called, and that is done here. Does not wait.
  bool ClearOffload();
  // Tells the guest that something may have happened on each ring; one time too often does no harm.
  void CallAll();
  // Tells whoever serves the rings the same.
  void KickAll();

  // librte_vhost's event thread.
  void OnNewDevice(int vid);
  void OnDestroyDevice();
  void OnVringState(int vid, uint16_t vring, bool enabled);
  void OnFeatures(uint64_t features);  // VHOST_F_LOG_ALL alone may change while the device runs
  void OnConnection(bool connected);
  void OnVdpaRefused();
  // Straight to QEMU: before and after librte_vhost takes a message. It may unmap the log it has for another.
  void BeforeMessage(int vid, uint32_t request);
  void AfterMessage(int vid);

  // Any thread: there is no keeper between the front-end and librte_vhost.
  bool straight() const { return !index_page_; }

  // Control thread; each is one consistent word.
  bool connected() const { return connected_.load(std::memory_order_acquire); }
  bool running() const { return vid_.load(std::memory_order_acquire) >= 0; }
  // Its rings had been used before they came here: it was migrated, or paused, or another back-end had it.
  bool arrived() const { return arrived_.load(std::memory_order_acquire); }
  uint64_t features() const { return features_.load(std::memory_order_acquire); }
  // The front-end wants every page that is written marked in its dirty log. Any thread.
  bool logging() const { return features() >> kVhostLogAll & 1; }
  uint32_t enabled_vrings() const { return enabled_.load(std::memory_order_acquire); }
  // Descriptors of the largest ring that the guest has enabled; 0: none yet.
  uint16_t ring_size() const { return ring_size_.load(std::memory_order_acquire); }
  // The vDPA device that librte_vhost has given the rings to has not taken them; until Revive.
  bool vdpa_refused() const { return vdpa_refused_.load(std::memory_order_acquire); }
  uint64_t malformed() const { return malformed_.load(std::memory_order_relaxed); }
  // Whether this address of ours is in the guest's memory.
  bool Owns(uintptr_t address) const;
  // An address in the guest's first ring, to ask the kernel for its node; nullptr when there is none.
  const void* ring_address() const { return ring_address_.load(std::memory_order_acquire); }

 private:
  struct Place {
    const PackedDesc* packed = nullptr;  // nullptr: a split ring
    uint16_t size = 0;
    uint64_t desc = 0, used = 0;     // guest physical; of a packed ring the device event area
    IndexPageVring* page = nullptr;  // nullptr: straight to QEMU
    bool operator==(const Place&) const = default;
  };
  struct Vring {
    Place place;  // written by the event thread, only while no poller is in this vring
    // The poller's (OnDestroyDevice's, once they are outside). Packed: where a chain without end was seen once, and
    // where it was counted.
    int suspect_at = -1, broken_at = -1;
    // Split: the unreadable chain's position and when it was first seen (TSC; 0: none).
    uint16_t stuck_at = 0;
    uint64_t stuck_since = 0;
    // Two lanes may send to one guest (its own uplink's and a wire's); a ring takes one burst at a time.
    std::atomic_flag sending = ATOMIC_FLAG_INIT;
    UniqueFd kick;  // under mutex_

    void ForgetSuspicions() {
      suspect_at = broken_at = -1;
      stuck_since = 0;
    }
  };
  Place PlaceOf(int vid, uint16_t vring, bool packed) const;
  void EndOffload(int vid, bool for_log);
  GuestRings ReadRings(int vid) const;
  void WritePositions(int vid, const GuestRings& rings);
  int UsableVid(uint16_t vring) const;
  uint16_t ReceiveJournalled(int vid, uint16_t vring, rte_mbuf** frames, uint16_t n);
  uint16_t TransmitJournalled(int vid, uint16_t vring, rte_mbuf** frames, uint16_t n);
  uint16_t TransmitPlain(int vid, uint16_t vring, rte_mbuf** frames, uint16_t n);
  uint16_t TransmitLogged(int vid, uint16_t vring, rte_mbuf** frames, uint16_t n);
  uint16_t PackedFramesThatFit(int vid, Vring& v, uint16_t position, unsigned& chains, rte_mbuf** frames, uint16_t n);
  // Mark in the dirty log what librte_vhost does not (guest_bursts.cc says why).
  void MarkSlots(int vid, const Vring& v, uint16_t from, uint16_t to);
  void MarkEvents(int vid, const Vring& v);
  void MarkRings(int vid);
  void Mark(int vid, const GuestRange& range);
  void SkipUnreadableChain(int vid, uint16_t vring, uint16_t avail_position, uint16_t used_position);
  void NoteIncompleteChain(Vring& v, uint16_t position);
  void RememberMemory(int vid);
  bool RingsUsed(int vid, bool packed) const;
  void SetNotification(bool on);
  void NoteRingSize(uint16_t size) {
    if (size > ring_size_.load(std::memory_order_relaxed)) ring_size_.store(size, std::memory_order_release);
  }
  void CountMalformed(uint64_t n) {
    malformed_.store(malformed_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }

  const std::string port_;
  const uint16_t max_vrings_;
  const std::shared_ptr<IndexPageMap> index_page_;
  const Hooks hooks_;
  rte_mempool* pool_ = nullptr;
  uint16_t mtu_ = 1500;

  std::atomic<int> vid_{-1};
  std::atomic<bool> arrived_{false};
  std::atomic<bool> retired_{false};
  std::atomic<uint32_t> enabled_{0};  // bit v: vring v may be used
  std::atomic<uint64_t> features_{0};
  std::atomic<bool> connected_{false};
  std::atomic<bool> vdpa_refused_{false};
  std::atomic<bool> served_by_device_{false};
  std::atomic<uint32_t> generation_{0};
  std::atomic<const void*> ring_address_{nullptr};
  std::atomic<uint16_t> ring_size_{0};  // event thread writes
  std::atomic<uint64_t> malformed_{0};  // poller writes
  struct Range {
    uintptr_t start;
    size_t size;
    uint64_t guest_phys_addr;
  };
  LogGate log_gate_;
  std::mutex device_mutex_;    // held while the device is looked into by the control thread, or goes away
  std::mutex offload_mutex_;   // never held over a call of librte_vhost's, which may hold its vrings' locks, or `stop`
  StopOffload stop_offload_;   // under offload_mutex_
  bool offload_logs_ = false;  // likewise
  mutable std::mutex mutex_;   // the vrings' kick descriptors, and memory_
  std::vector<Range> memory_;  // the guest's, mapped here; as of OnNewDevice
  std::vector<Vring> vrings_;  // its size never changes: a Vring cannot move
};

}  // namespace everport
