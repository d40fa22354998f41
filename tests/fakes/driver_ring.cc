#include "tests/fakes/driver_ring.h"

#include "tests/fakes/packed_ring.h"
#include "tests/fakes/split_ring.h"

namespace everport::fakes {

std::unique_ptr<DriverRing> DriverRing::Make(const RingOptions& options, GuestMemory& memory) {
  if (options.packed) return std::make_unique<PackedRing>(options, memory);
  return std::make_unique<SplitRing>(options, memory);
}

DriverRing::DriverRing(const RingOptions& options, GuestMemory& memory)
    : indirect_(memory.Allocate(size_t{16} * options.max_indirect * options.size)),
      options_(options),
      free_(options.size),
      outstanding_(options.size) {
  for (uint16_t id = 0; id < options.size; ++id) free_ids_.push_back(id);
}

uint16_t DriverRing::TakeId() {
  const uint16_t id = free_ids_.front();
  free_ids_.pop_front();
  return id;
}

void DriverRing::MadeAvailable(uint16_t id, uint16_t cookie, uint16_t slots) {
  outstanding_[id] = {true, cookie, slots};
  free_ = static_cast<uint16_t>(free_ - slots);
  ++account_.available;
  if (options_.in_order) order_.push_back(id);
}

unsigned DriverRing::Returned(uint32_t id, uint32_t len) {
  if (id >= outstanding_.size() || !outstanding_[id].live) {
    ++account_.unknown;
    return 0;
  }
  unsigned slots = 0;
  auto one = [&](uint16_t returned, uint32_t used_len) {
    Outstanding& chain = outstanding_[returned];
    chain.live = false;
    slots += chain.slots;
    free_ = static_cast<uint16_t>(free_ + chain.slots);
    ++account_.returned;
    ready_.push_back({chain.cookie, used_len});
    Release(returned);
  };
  if (!options_.in_order) {
    one(static_cast<uint16_t>(id), len);
    return slots;
  }
  for (;;) {
    const uint16_t oldest = order_.front();
    order_.pop_front();
    one(oldest, oldest == id ? len : 0);
    if (oldest == id) return slots;
  }
}

}  // namespace everport::fakes
