#pragma once

// librte_vhost's stores into a ring, one by one, in the order of virtio_net.c (DPDK 22.11 to 24.11; named at
// ring_recovery.h), with a bang after any of them. What a daemon does around them (index_page.h) is part of it.

#include <cstdint>
#include <functional>
#include <vector>

#include "backend/keeper/index_page.h"
#include "tests/fakes/packed_ring.h"

namespace everport {

struct Killed {};  // thrown in place of the store that never happens

// Counts stores; the kill_after-th is the last. After each one `between` runs: the guest, on another CPU.
class Stores {
 public:
  uint64_t kill_after = UINT64_MAX;
  std::function<void()> between = [] {};
  uint64_t count() const { return count_; }

  template <typename T>
  void Put(T& where, T value) {
    __atomic_store_n(&where, value, __ATOMIC_RELEASE);
    Done();
  }
  void Put(std::atomic<uint64_t>& where, uint64_t value) {
    where.store(value, std::memory_order_release);
    Done();
  }

 private:
  void Done() {
    if (++count_ >= kill_after) throw Killed{};
    between();
  }
  uint64_t count_ = 0;
};

class PackedDevice {
 public:
  PackedDevice(fakes::PackedDesc* ring, uint16_t size, bool in_order, uint16_t position, IndexPageVring* journal,
               Stores* stores);

  // rte_vhost_enqueue_burst of frames that take `buffers[i]` chains each. Returns how many went in.
  unsigned Enqueue(std::vector<unsigned> buffers);
  // rte_vhost_dequeue_burst. Returns the buffer ids taken out: the frames that would now be sent on.
  std::vector<uint16_t> Dequeue(unsigned count);

  uint16_t used_position() const { return Position(used_); }
  uint16_t avail_position() const { return Position(avail_); }

 private:
  struct Cursor {
    uint16_t index;
    bool wrap;
  };
  struct Chain {
    uint16_t slots = 0;  // 0: none is there
    uint16_t id = 0;
  };
  struct Shadow {
    uint16_t id;
    uint32_t len;
    uint16_t slots;
  };
  static uint16_t Position(const Cursor& c) { return static_cast<uint16_t>(c.index | (c.wrap ? 0x8000 : 0)); }
  void Advance(Cursor& cursor, unsigned slots) const;
  bool Available(const Cursor& cursor) const;
  Chain Look(Cursor cursor) const;
  unsigned WriteJournal(unsigned most);
  void CloseJournal();
  uint16_t UsedFlags(uint16_t also) const;
  bool BatchReady(Chain* chains) const;
  void EnqueueBatch(const Chain* chains);
  void FlushEnqueue();
  void DequeueBatch(const Chain* chains);
  void DequeueSingle(const Chain& chain);
  void FlushDequeue();

  fakes::PackedDesc* const ring_;
  const uint16_t size_;
  const bool in_order_;
  Cursor avail_, used_;
  IndexPageVring* const journal_;
  Stores& stores_;
  std::vector<Shadow> shadow_;  // of enqueue
  uint16_t shadow_aligned_ = 0;
  bool held_ = false;  // of dequeue: the first chain's used descriptor is kept back
  Cursor held_at_{};
  uint16_t held_id_ = 0, held_flags_ = 0;
};

}  // namespace everport
