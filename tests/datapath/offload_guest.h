#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/datapath/guest_rings.h"
#include "tests/fakes/guest_memory.h"
#include "tests/fakes/net_queue.h"

namespace everport {

// A guest's memory, split rings and eventfds as an offload device gets them, without a vhost-user front-end between.
class OffloadGuest {
 public:
  struct Options {
    unsigned queue_pairs = 1;
    uint16_t ring_size = 256;
    unsigned regions = 2;
    size_t region_bytes = 8u << 20;
    uint64_t features = 0;  // besides VERSION_1 and MRG_RXBUF; EVENT_IDX and IN_ORDER are obeyed
  };
  explicit OffloadGuest(const Options& options);

  // What the device is to work on, from the positions that are kept here; `Take` keeps those that a Stop has filled in.
  GuestRings Rings() const;
  void Take(const GuestRings& rings);

  struct Pair {
    std::unique_ptr<fakes::RxQueue> rx;
    std::unique_ptr<fakes::TxQueue> tx;
  };
  std::vector<Pair>& pairs() { return pairs_; }
  fakes::GuestMemory& memory() { return memory_; }
  // Publishes what was added, and kicks if the device wants it.
  void Publish(unsigned pair);
  fakes::DriverRing& ring(unsigned vring);
  uint16_t used_index(unsigned vring) const;
  // As the device writes it.
  void SetUsedIndex(unsigned vring, uint16_t index);
  int kick_fd(unsigned vring) const { return vrings_[vring].kick.get(); }
  int call_fd(unsigned vring) const { return vrings_[vring].call.get(); }
  void set_enabled(unsigned vring, bool enabled) { vrings_[vring].enabled = enabled; }
  void RenewNotifiers(unsigned vring);

 private:
  struct Vring {
    bool enabled = true;
    uint16_t base = 0;
    UniqueFd kick, call;
  };
  uint16_t* UsedIndexAt(unsigned vring) const;

  const Options options_;
  fakes::GuestMemory memory_;
  std::vector<Pair> pairs_;
  std::vector<Vring> vrings_;
};

}  // namespace everport
