#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/base/unique_fd.h"
#include "backend/vhost_user/message.h"

namespace everport::fakes {

// A guest's RAM as a vhost-user front-end shares it: 1 … 8 memfd regions, with a hole between each two in guest
// physical space, mapped here. Guest physical, front-end virtual and file offset all differ, so nothing passes by
// mixing them up. Addresses handed out stay valid for the object's life. Not thread-safe.
class GuestMemory {
 public:
  struct Block {
    uint64_t gpa = 0;
    uint8_t* host = nullptr;
    size_t size = 0;
  };

  GuestMemory(unsigned regions, size_t bytes_per_region);
  ~GuestMemory();
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  // Zeroed, inside one region (the emptiest), on pages of its own: what is written there marks no other block's page.
  // Ends the program when there is no room.
  Block Allocate(size_t size);
  // Gives everything back: a guest that boots anew. Zeroes the memory.
  void Reset();

  // Front-end virtual address of a guest physical one, as SET_VRING_ADDR wants it. The gpa must lie in a region.
  uint64_t Uva(uint64_t gpa) const;
  // Where gpa … gpa+len lies here; nullptr if not wholly inside one region.
  uint8_t* Host(uint64_t gpa, uint64_t len) const;
  std::vector<Block> Regions() const;
  uint64_t highest_gpa() const;  // first address after the last region

  // SET_MEM_TABLE's content and descriptors, in the same order.
  std::vector<vhost_user::MemoryRegion> Table() const;
  std::vector<int> Fds() const;

  // Cuts region i's file to `bytes`: what a hostile front-end does. Do not touch that memory afterwards.
  void Truncate(unsigned i, size_t bytes);

 private:
  struct Region {
    vhost_user::MemoryRegion wire;
    UniqueFd fd;
    uint8_t* map = nullptr;  // of the whole file; guest memory begins at wire.mmap_offset
    size_t map_bytes = 0;
    size_t used = 0;
  };
  const Region* Find(uint64_t gpa, uint64_t len) const;

  std::vector<Region> regions_;
};

}  // namespace everport::fakes
