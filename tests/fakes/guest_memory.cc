#include "tests/fakes/guest_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "tests/fakes/require.h"

namespace everport::fakes {
namespace {
constexpr size_t kHole = 2u << 20;
constexpr size_t kFileOffset = 64 << 10;  // guest memory does not begin at the file's start
}  // namespace

GuestMemory::GuestMemory(unsigned regions, size_t bytes_per_region) {
  uint64_t gpa = 0;
  for (unsigned i = 0; i < regions; ++i) {
    Region region;
    region.fd.reset(::memfd_create("everport-test-guest", MFD_CLOEXEC));
    FAKES_REQUIRE(region.fd.valid());
    region.map_bytes = kFileOffset + bytes_per_region;
    FAKES_REQUIRE(::ftruncate(region.fd.get(), static_cast<off_t>(region.map_bytes)) == 0);
    void* map = ::mmap(nullptr, region.map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, region.fd.get(), 0);
    FAKES_REQUIRE(map != MAP_FAILED);
    region.map = static_cast<uint8_t*>(map);
    region.wire = {.guest_phys_addr = gpa,
                   .memory_size = bytes_per_region,
                   .userspace_addr = reinterpret_cast<uint64_t>(region.map + kFileOffset),
                   .mmap_offset = kFileOffset};
    if (i == 0) region.used = 4096;  // nobody hands out guest address 0
    gpa += bytes_per_region + kHole;
    regions_.push_back(std::move(region));
  }
}

GuestMemory::~GuestMemory() {
  for (Region& region : regions_) ::munmap(region.map, region.map_bytes);
}

std::vector<GuestMemory::Block> GuestMemory::Regions() const {
  std::vector<Block> blocks;
  for (const Region& region : regions_)
    blocks.push_back({region.wire.guest_phys_addr, region.map + kFileOffset, region.wire.memory_size});
  return blocks;
}

GuestMemory::Block GuestMemory::Allocate(size_t size) {
  Region* emptiest = &regions_[0];
  for (Region& region : regions_) {
    if (region.wire.memory_size - region.used > emptiest->wire.memory_size - emptiest->used) emptiest = &region;
  }
  constexpr size_t kPage = 4096;
  const size_t start = (emptiest->used + kPage - 1) & ~(kPage - 1);
  errno = ENOMEM;
  FAKES_REQUIRE(start + size <= emptiest->wire.memory_size);
  emptiest->used = start + size;
  return {emptiest->wire.guest_phys_addr + start, emptiest->map + kFileOffset + start, size};
}

void GuestMemory::Reset() {
  for (Region& region : regions_) {
    std::memset(region.map + kFileOffset, 0, region.used);
    region.used = &region == &regions_[0] ? 4096 : 0;
  }
}

const GuestMemory::Region* GuestMemory::Find(uint64_t gpa, uint64_t len) const {
  for (const Region& region : regions_) {
    if (gpa < region.wire.guest_phys_addr) continue;
    const uint64_t offset = gpa - region.wire.guest_phys_addr;
    if (offset < region.wire.memory_size && len <= region.wire.memory_size - offset) return &region;
  }
  return nullptr;
}

uint64_t GuestMemory::Uva(uint64_t gpa) const {
  const Region* region = Find(gpa, 1);
  errno = EFAULT;
  FAKES_REQUIRE(region != nullptr);
  return region->wire.userspace_addr + (gpa - region->wire.guest_phys_addr);
}

uint8_t* GuestMemory::Host(uint64_t gpa, uint64_t len) const {
  const Region* region = Find(gpa, len);
  return region == nullptr ? nullptr : region->map + kFileOffset + (gpa - region->wire.guest_phys_addr);
}

uint64_t GuestMemory::highest_gpa() const {
  const auto& wire = regions_.back().wire;
  return wire.guest_phys_addr + wire.memory_size;
}

std::vector<vhost_user::MemoryRegion> GuestMemory::Table() const {
  std::vector<vhost_user::MemoryRegion> table;
  for (const Region& region : regions_) table.push_back(region.wire);
  return table;
}

std::vector<int> GuestMemory::Fds() const {
  std::vector<int> fds;
  for (const Region& region : regions_) fds.push_back(region.fd.get());
  return fds;
}

void GuestMemory::Truncate(unsigned i, size_t bytes) {
  FAKES_REQUIRE(::ftruncate(regions_[i].fd.get(), static_cast<off_t>(bytes)) == 0);
}

}  // namespace everport::fakes
