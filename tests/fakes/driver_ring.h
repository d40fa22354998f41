#pragma once

// The driver's half of one virtqueue (virtio 1.2, 2.7 split and 2.8 packed) with exact accounting: every chain made
// available must come back exactly once. Raw access for tests that break the rules goes through the concrete classes.

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "tests/fakes/guest_memory.h"

namespace everport::fakes {

struct RingOptions {
  uint16_t size = 256;  // power of two for split
  bool packed = false;
  bool event_idx = false;
  bool in_order = false;
  uint16_t max_indirect = 32;  // descriptors per indirect table
};

struct Segment {
  uint64_t gpa = 0;
  uint32_t len = 0;
  bool writable = false;  // by the device
};

struct UsedBuffer {
  uint16_t cookie = 0;  // as given to Add
  uint32_t len = 0;     // as the device wrote it; 0 for those an in-order device skipped
};

struct RingAccount {
  uint64_t available = 0;   // chains made available
  uint64_t returned = 0;    // of these, come back
  uint64_t unknown = 0;     // used entries for a chain that was not outstanding: used twice, or an id out of the blue
  uint64_t misordered = 0;  // come back out of ring order though in-order was negotiated
  uint64_t outstanding() const { return available - returned; }
};

class DriverRing {
 public:
  static std::unique_ptr<DriverRing> Make(const RingOptions& options, GuestMemory& memory);
  virtual ~DriverRing() = default;

  // Makes a chain available; the device may see it at once, and sees it at the latest after Publish(). False: no room.
  // indirect: one descriptor that points to a table (1 … max_indirect segments).
  virtual bool Add(std::span<const Segment> chain, uint16_t cookie, bool indirect) = 0;
  // True if the device wants a kick for what has been added since the last call.
  virtual bool Publish() = 0;
  // The next chain that came back. False: none.
  virtual bool PopUsed(UsedBuffer* out) = 0;
  // Asks for an interrupt at the next used chain (true) or for none (false). After true look once more before sleeping.
  virtual void WantCalls(bool want) = 0;

  // What SET_VRING_BASE says for a ring that has never run.
  virtual uint32_t initial_base() const = 0;
  // Descriptor table, driver area (avail), device area (used), guest physical.
  virtual uint64_t desc_gpa() const = 0;
  virtual uint64_t driver_gpa() const = 0;
  virtual uint64_t device_gpa() const = 0;

  const RingAccount& account() const { return account_; }
  uint16_t size() const { return options_.size; }
  uint16_t free_descriptors() const { return free_; }
  bool packed() const { return options_.packed; }
  const RingOptions& options() const { return options_; }

 protected:
  // A chain that the device has. id is what the device will name it by.
  struct Outstanding {
    bool live = false;
    uint16_t cookie = 0;
    uint16_t slots = 0;  // ring descriptors it takes
  };

  DriverRing(const RingOptions& options, GuestMemory& memory);
  uint16_t TakeId();
  void MadeAvailable(uint16_t id, uint16_t cookie, uint16_t slots);
  // Books the chain `id` as come back, with all before it where in-order lets the device name only the last; gives the
  // ring slots that this frees, 0 if id is not outstanding. The chains land in ready_.
  unsigned Returned(uint32_t id, uint32_t len);
  virtual void Release(uint16_t id) = 0;  // descriptors of a returned chain

  GuestMemory::Block indirect_;  // options.size tables of max_indirect descriptors, by id
  RingOptions options_;
  RingAccount account_;
  uint16_t free_;
  std::vector<Outstanding> outstanding_;  // by id
  std::deque<uint16_t> order_;            // in-order only: ids as made available
  std::deque<UsedBuffer> ready_;
  std::deque<uint16_t> free_ids_;
};

}  // namespace everport::fakes
