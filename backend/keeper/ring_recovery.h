#pragma once

// Where the next daemon must begin in a ring whose daemon has died. Pure; any thread.
//
// Never from avail: between reading a chain and handing it back librte_vhost holds it nowhere but in its own memory, so
// a base taken from the available side loses every chain that was under way.
//
// Split rings (virtio 1.2, 2.7.8): used->idx is stored last, so it tells exactly what the guest has been given back.
//
// Packed rings (2.8): librte_vhost hands chains back in ring order and stores, in virtio_net.c of DPDK 22.11 to 24.11,
//   Rx  vhost_flush_enqueue_shadow_packed: id and len of all heads, fence, flags of the 2nd … last, flags of the 1st;
//       vhost_flush_enqueue_batch_packed: id and len of four heads, fence, flags of the four;
//   Tx  vhost_shadow_dequeue_{batch,single}_packed: the same for the 2nd … last chain of the burst, while the first is
//       kept back; vhost_flush_dequeue_shadow_packed: id, then flags, of the first;
//   Tx in order  vhost_shadow_dequeue_*_inorder: nothing but the first head's id (that of the last chain), then flags:
//       one used descriptor stands for the burst.
// The guest goes through the ring one head after the other. So the first chain of the burst whose head still is
// available is where the guest will look next: nothing at or after it has been seen by the guest, the slots there are
// the device's, and putting id, len and flags of all later heads back makes as if the daemon had never touched them.
// Before it everything has been given back (a head there is used, or already available again for the next round).
// Undoing rather than finishing keeps a frame over several buffers whole, and a Tx frame that was taken out of the ring
// but not yet sent is sent by the next daemon.

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/keeper/index_page.h"

namespace everport {

inline constexpr uint16_t kSplitUsedIdxOffset = 2;  // of idx in the used ring: after flags

// The last eight bytes of a packed descriptor (2.8.13), little-endian.
struct PackedTail {
  uint32_t len;
  uint16_t id;
  uint16_t flags;
  bool operator==(const PackedTail&) const = default;
};
static_assert(sizeof(PackedTail) == 8);
inline constexpr unsigned kPackedDescSize = 16;
inline constexpr unsigned kPackedTailOffset = 8;

struct PackedRepair {
  uint16_t slot;
  PackedTail tail;
};

struct PackedRecovery {
  uint16_t position;                  // as in index_page.h: index, wrap counter in bit 15
  unsigned given_back;                // how many of the burst's chains the guest has
  std::vector<PackedRepair> repairs;  // to be written before anyone else touches the ring
};

// chains: what the index page says was at `position` before the burst. one_used_per_burst: VIRTIO_F_IN_ORDER and a
// ring that the guest transmits on. read: the tail of a slot's descriptor.
// InvalidArgument when the index page contradicts itself; the ring cannot be recovered then.
absl::StatusOr<PackedRecovery> RecoverPacked(std::span<const IndexPageChain> chains, uint16_t position,
                                             uint16_t ring_size, bool one_used_per_burst,
                                             const std::function<absl::StatusOr<PackedTail>(uint16_t slot)>& read);

}  // namespace everport
