#pragma once

// A front-end's memory table and the rings in it: checks and address translation. Pure but for GuestFiles; any thread.

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "backend/keeper/guest_files.h"
#include "backend/keeper/session_record.h"

namespace everport {

// 1 … 8 regions, page-aligned, without wrap-around, overlapping neither in guest physical nor in front-end addresses,
// each inside its file. The error names the region by its number in the table.
absl::Status CheckMemoryTable(const std::vector<RecordedRegion>& memory, GuestFiles& files);

// Virtio 1.2: 2.7 (split) and 2.8 (packed): size, alignment, and that each part lies inside one region.
absl::Status CheckRingSize(uint32_t num, bool packed, uint16_t max_ring_size);
absl::Status CheckRing(const std::vector<RecordedRegion>& memory, const vhost_user::VringAddr& addr, uint32_t num,
                       bool packed);

struct FilePlace {
  int fd;           // borrowed from the table
  uint64_t offset;  // bytes from the start of the file
  uint64_t guest_phys_addr;
};
// Where `bytes` at a front-end virtual address lie; nullopt unless inside one region.
std::optional<FilePlace> Locate(const std::vector<RecordedRegion>& memory, uint64_t user_addr, uint64_t bytes);

}  // namespace everport
