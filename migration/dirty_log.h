#pragma once

// The dirty log: what a back-end writes into guest memory has to be marked in it while the front-end migrates the guest
// (VHOST_F_LOG_ALL). vhost-user.rst, "Migration": one bit a page of 4 KiB of guest physical memory.
// Pure values and functions; any thread.

#include <cstdint>
#include <optional>
#include <vector>

namespace everport {

struct GuestRange {
  uint64_t guest_phys_addr;
  uint64_t bytes;
  bool operator==(const GuestRange&) const = default;
};

// What a device writes of a ring beside the buffers in it, of a ring whose `desc` and `used` parts lie at these guest
// physical addresses. Split (virtio 1.2, 2.7.8): the used ring with avail_event. Packed (2.8): the descriptors and the
// device event suppression area, which `used` stands for in SET_VRING_ADDR.
std::vector<GuestRange> WrittenRingParts(bool packed, uint32_t size, uint64_t desc, uint64_t used);

// The bytes of a log of log_bytes that hold the range's bits; nullopt when it has none there. Setting them whole marks
// up to seven pages too many on either side, which costs the migration these pages' transfer; but it needs no look at
// what is there, and so it can go without a lock beside the data path of other ports, whose back-ends set bits of the
// same log, and the front-end, which takes them away.
struct LogBytes {
  uint64_t first, last;
  bool operator==(const LogBytes&) const = default;
};
std::optional<LogBytes> LogBytesOf(const GuestRange& range, uint64_t log_bytes);

}  // namespace everport
