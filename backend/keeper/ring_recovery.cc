#include "backend/keeper/ring_recovery.h"

#include "absl/strings/str_cat.h"

namespace everport {
namespace {

constexpr uint16_t kIndexMask = 0x7fff;
constexpr uint16_t kWrap = 0x8000;
constexpr uint16_t kAvail = 1 << 7;
constexpr uint16_t kUsed = 1 << 15;

uint16_t Advance(uint16_t position, uint16_t slots, uint16_t size) {
  const uint32_t index = (position & kIndexMask) + uint32_t{slots};
  const uint16_t wrap = position & kWrap;
  return index < size ? static_cast<uint16_t>(wrap | index) : static_cast<uint16_t>((wrap ^ kWrap) | (index - size));
}

// 2.8.1: AVAIL equals the wrap counter of that round, USED does not.
bool StillAvailable(const PackedTail& tail, uint16_t position) {
  return (tail.flags & (kAvail | kUsed)) == (position & kWrap ? kAvail : kUsed);
}

bool UsedInThatRound(const PackedTail& tail, uint16_t position) {
  return (tail.flags & (kAvail | kUsed)) == (position & kWrap ? kAvail | kUsed : 0);
}

absl::Status CheckChains(std::span<const IndexPageChain> chains, uint16_t position, uint16_t ring_size) {
  if ((position & kIndexMask) >= ring_size)
    return absl::InvalidArgumentError(
        absl::StrCat("index page: position ", position & kIndexMask, " in a ring of ", ring_size));
  uint32_t slots = 0;
  for (const IndexPageChain& chain : chains) {
    slots += chain.slots;
    if (chain.slots == 0 || slots > ring_size)
      return absl::InvalidArgumentError(absl::StrCat("index page: more chains than a ring of ", ring_size, " holds"));
  }
  return absl::OkStatus();
}

// In order: the one used descriptor at the burst's first head names the last chain given back. When the guest has
// already filled that slot anew, it has taken back the whole burst: all that was noted. (A burst that broke off at a
// malformed chain, in that very instant, would be shorter: that guest's own loss.)
unsigned GivenBackInOrder(std::span<const IndexPageChain> chains, const PackedTail& first, uint16_t position) {
  if (StillAvailable(first, position)) return 0;
  const unsigned all = static_cast<unsigned>(chains.size());
  if (!UsedInThatRound(first, position)) return all;
  for (unsigned i = all; i-- > 0;)
    if (chains[i].last_id == first.id) return i + 1;
  return all;
}

}  // namespace

absl::StatusOr<PackedRecovery> RecoverPacked(std::span<const IndexPageChain> chains, uint16_t position,
                                             uint16_t ring_size, bool one_used_per_burst,
                                             const std::function<absl::StatusOr<PackedTail>(uint16_t slot)>& read) {
  if (absl::Status status = CheckChains(chains, position, ring_size); !status.ok()) return status;
  std::vector<PackedTail> heads;
  std::vector<uint16_t> positions;
  for (uint16_t at = position; const IndexPageChain& chain : chains) {
    absl::StatusOr<PackedTail> tail = read(at & kIndexMask);
    if (!tail.ok()) return tail.status();
    heads.push_back(*tail);
    positions.push_back(at);
    at = Advance(at, chain.slots, ring_size);
  }

  PackedRecovery recovery{position, 0, {}};
  if (one_used_per_burst) {
    if (!heads.empty()) recovery.given_back = GivenBackInOrder(chains, heads[0], position);
  } else {
    while (recovery.given_back < heads.size() &&
           !StillAvailable(heads[recovery.given_back], positions[recovery.given_back]))
      ++recovery.given_back;
  }
  for (unsigned i = 0; i < recovery.given_back; ++i)
    recovery.position = Advance(recovery.position, chains[i].slots, ring_size);
  for (size_t i = recovery.given_back; i < heads.size(); ++i) {
    const PackedTail original{chains[i].head_len, chains[i].head_id, chains[i].head_flags};
    if (heads[i] != original) recovery.repairs.push_back({static_cast<uint16_t>(positions[i] & kIndexMask), original});
  }
  return recovery;
}

}  // namespace everport
