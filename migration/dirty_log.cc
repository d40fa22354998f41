#include "migration/dirty_log.h"

#include <algorithm>
#include <limits>

namespace everport {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kPagesPerByte = 8;

}  // namespace

std::vector<GuestRange> WrittenRingParts(bool packed, uint32_t size, uint64_t desc, uint64_t used) {
  constexpr uint64_t kPackedDesc = 16, kEventArea = 4;                  // 2.8.13, 2.8.14
  constexpr uint64_t kUsedHead = 4, kUsedElement = 8, kAvailEvent = 2;  // 2.7.8
  if (packed) return {{desc, kPackedDesc * size}, {used, kEventArea}};
  return {{used, kUsedHead + kUsedElement * size + kAvailEvent}};
}

std::optional<LogBytes> LogBytesOf(const GuestRange& range, uint64_t log_bytes) {
  if (range.bytes == 0 || log_bytes == 0) return std::nullopt;
  const uint64_t most = std::numeric_limits<uint64_t>::max() - range.guest_phys_addr;
  const uint64_t end = range.guest_phys_addr + std::min(range.bytes - 1, most);  // its last byte
  const uint64_t first = range.guest_phys_addr / kPageBytes / kPagesPerByte;
  if (first >= log_bytes) return std::nullopt;
  return LogBytes{first, std::min(end / kPageBytes / kPagesPerByte, log_bytes - 1)};
}

}  // namespace everport
