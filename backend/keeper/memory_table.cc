#include "backend/keeper/memory_table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace everport {
namespace {

using vhost_user::MemoryRegion;

constexpr uint64_t kPage = 4096;

absl::Status RegionError(size_t index, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("SET_MEM_TABLE: region ", index, " ", std::string(what)));
}

bool Wraps(uint64_t start, uint64_t size) {
  return start + (size - 1) < start;
}

bool Overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) {
  return a <= b + (b_size - 1) && b <= a + (a_size - 1);
}

absl::Status CheckRegion(size_t index, const RecordedRegion& recorded, GuestFiles& files) {
  const MemoryRegion& r = recorded.region;
  if (r.memory_size == 0) return RegionError(index, "is empty");
  if ((r.guest_phys_addr | r.memory_size | r.userspace_addr | r.mmap_offset) % kPage != 0)
    return RegionError(index, "is not page-aligned");
  if (Wraps(r.guest_phys_addr, r.memory_size) || Wraps(r.userspace_addr, r.memory_size) ||
      Wraps(r.mmap_offset, r.memory_size))
    return RegionError(index, "goes round the end of the address space");
  const absl::StatusOr<uint64_t> size = files.Size(recorded.fd.get());
  if (!size.ok()) return RegionError(index, absl::StrCat("has no usable file: ", std::string(size.status().message())));
  if (*size < r.mmap_offset || *size - r.mmap_offset < r.memory_size)
    return RegionError(index, absl::StrCat("reaches beyond its file of ", *size, " bytes"));
  return absl::OkStatus();
}

absl::Status RingError(uint32_t index, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("SET_VRING_ADDR: ring ", index, ": ", std::string(what)));
}

struct Part {
  const char* name;
  uint64_t addr, bytes, align;
};

}  // namespace

absl::Status CheckMemoryTable(const std::vector<RecordedRegion>& memory, GuestFiles& files) {
  for (size_t i = 0; i < memory.size(); ++i) {
    if (absl::Status status = CheckRegion(i, memory[i], files); !status.ok()) return status;
    const MemoryRegion& r = memory[i].region;
    for (size_t j = 0; j < i; ++j) {
      const MemoryRegion& other = memory[j].region;
      if (Overlap(r.guest_phys_addr, r.memory_size, other.guest_phys_addr, other.memory_size) ||
          Overlap(r.userspace_addr, r.memory_size, other.userspace_addr, other.memory_size))
        return RegionError(i, absl::StrCat("overlaps region ", j));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRingSize(uint32_t num, bool packed, uint16_t max_ring_size) {
  constexpr uint32_t kMaxRing = 32768;  // virtio 1.2, 2.7 and 2.8.10.1
  const uint32_t max = std::min<uint32_t>(max_ring_size, kMaxRing);
  if (num == 0 || num > max)
    return absl::InvalidArgumentError(absl::StrCat("a ring of ", num, " descriptors; 1 to ", max, " are allowed"));
  if (!packed && (num & (num - 1)) != 0)
    return absl::InvalidArgumentError(absl::StrCat("a split ring of ", num, " descriptors; not a power of two"));
  return absl::OkStatus();
}

absl::Status CheckRing(const std::vector<RecordedRegion>& memory, const vhost_user::VringAddr& addr, uint32_t num,
                       bool packed) {
  constexpr uint64_t kEventArea = 4;             // packed: driver and device event suppression
  const uint64_t avail = 6 + uint64_t{2} * num;  // flags, idx, ring, used_event
  const uint64_t used = 6 + uint64_t{8} * num;   // flags, idx, ring, avail_event
  const Part parts[] = {
      {"descriptors", addr.desc_user_addr, uint64_t{16} * num, 16},
      {packed ? "driver area" : "available ring", addr.avail_user_addr, packed ? kEventArea : avail, packed ? 4u : 2u},
      {packed ? "device area" : "used ring", addr.used_user_addr, packed ? kEventArea : used, 4},
  };
  for (const Part& part : parts) {
    if (part.addr % part.align != 0)
      return RingError(addr.index, absl::StrCat(part.name, " not aligned to ", part.align));
    if (!Locate(memory, part.addr, part.bytes))
      return RingError(addr.index, absl::StrCat(part.name, " outside guest memory"));
  }
  return absl::OkStatus();
}

std::optional<FilePlace> Locate(const std::vector<RecordedRegion>& memory, uint64_t user_addr, uint64_t bytes) {
  for (const RecordedRegion& recorded : memory) {
    const MemoryRegion& r = recorded.region;
    if (user_addr < r.userspace_addr) continue;
    const uint64_t into = user_addr - r.userspace_addr;
    if (into >= r.memory_size || bytes > r.memory_size - into) continue;
    return FilePlace{recorded.fd.get(), r.mmap_offset + into, r.guest_phys_addr + into};
  }
  return std::nullopt;
}

}  // namespace everport
