#pragma once

// What a burst towards the guest may write: the buffers of the chains that the guest has made available, read before
// librte_vhost reads them itself. Pure functions on shared memory, as journal_scan.h: the guest may change it meanwhile,
// which is its own loss alone; nothing outside the ring and the guest's memory is read, and every scan ends.

#include <array>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "backend/datapath/journal_scan.h"
#include "backend/keeper/index_page.h"

struct vring_desc;
struct vring_avail;

namespace everport {

// Where a guest physical range lies here; nullptr unless in one piece.
using ReachGuest = absl::FunctionRef<const void*(uint64_t guest_phys_addr, uint64_t bytes)>;

// Chains as far as they were scanned, and all their buffers.
struct RxScan {
  static constexpr unsigned kMaxTable = 256;  // descriptors of an indirect table; librte_vhost refuses more buffers

  unsigned chains = 0;
  std::array<int64_t, kIndexPageChains> room;  // bytes that each chain holds
  unsigned ranges = 0;

  // Adds the chain that has the buffers given by `each`, unless there is no room for all of them in `out`.
  bool Add(const IndexPageRange* buffers, unsigned count, IndexPageRange* out);
};

// Virtio 1.2, 2.7: at most max_chains from `position` (an index that wraps at 2^16) on, their buffers in
// out[0 … kIndexPageRanges). A chain that loops, or has a table outside the guest's memory, ends the scan.
void ScanSplit(const vring_desc* desc, const vring_avail* avail, uint16_t size, uint16_t position, unsigned max_chains,
               ReachGuest reach, RxScan& scan, IndexPageRange* out);

// Virtio 1.2, 2.8: the `count` chains that ScanChains found at `position`.
void ScanPacked(const PackedDesc* ring, uint16_t size, uint16_t position, const IndexPageChain* chains, unsigned count,
                ReachGuest reach, RxScan& scan, IndexPageRange* out);

}  // namespace everport
