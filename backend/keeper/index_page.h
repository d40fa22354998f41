#pragma once

// The index page: one shared memfd per port, made by the keeper, written by the daemon's pollers, read by the keeper
// (or by the next daemon through it) when the daemon has died. It makes packed rings restartable: a packed ring has no
// used->idx in guest memory, and a used descriptor overwrites the head of its chain, so memory alone does not tell how
// far the dead daemon came.
//
// Protocol per vring, a redo log of one burst. P is the ring position (virtio 1.2, 2.8.1), index in bits 0-14, wrap
// counter in bit 15; at rest the avail and the used position are the same in librte_vhost.
//   1. at rest:          head = {P, 0}
//   2. before a burst:   entries[0..n) = the chains that lie at P, in ring order; then head = {P, n}, release
//   3. burst:            librte_vhost may mark any of the first n chains used, in order, batch by batch; never others
//   4. after the burst:  head = {P', 0}, release
// A process that dies between 2 and 4 leaves n entries: with them ring_recovery.h finds how many chains the guest has
// been given back, and restores the heads of all others, of which librte_vhost may have overwritten id, len and flags
// without the guest having been able to see it. Split rings need none of this (used->idx is exact) and leave n = 0,
// P unused.
//
// While the front-end logs dirty pages (VHOST_F_LOG_ALL) the page also tells what a burst towards the guest may write,
// for either layout: before the burst ranges[0..n) = the buffers of all chains it may take, then range_count = n, release;
// after it, with everything marked in the log, range_count = 0. The guest may take a buffer back, and put another in its
// place, before the daemon has marked it: only this tells the keeper what a daemon that died in between owes to the log.
//
// Everything here is native-endian, one writer (the poller that owns the ring) and readers only once it has died.

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace everport {

inline constexpr uint32_t kIndexPageMagic = 0x45504958;  // "EPIX"
inline constexpr uint32_t kIndexPageVersion = 2;
inline constexpr unsigned kIndexPageVrings = 32;   // 16 queue pairs
inline constexpr unsigned kIndexPageChains = 256;  // per burst
inline constexpr unsigned kIndexPageRanges = 512;  // likewise

// One available chain as the guest wrote it: its head descriptor's len, its buffer id (of its last descriptor, where
// the specification puts it; virtio 1.2, 2.8.6) and how many ring slots it takes (1 for an indirect one).
struct IndexPageChain {
  uint32_t head_len;
  uint16_t head_id;  // id in the head descriptor: what must be restored there
  uint16_t slots;    // 1 … ring size
  uint16_t last_id;  // the buffer id a used descriptor will carry
  uint16_t head_flags;
};
static_assert(sizeof(IndexPageChain) == 12);

struct IndexPageRange {
  uint64_t guest_phys_addr;
  uint64_t bytes;  // at most kIndexPageRangeBytes: a buffer takes no more than one frame, however long it is
};
inline constexpr uint64_t kIndexPageRangeBytes = 65536 + 12;
static_assert(sizeof(IndexPageRange) == 16);

// head, one 64-bit word so that it changes in one store: bits 0-15 position, 16-31 number of valid entries,
// bit 32 set once the poller has written it for this session (clear: the ring's recorded base holds).
struct IndexPageVring {
  std::atomic<uint64_t> head;
  std::atomic<uint64_t> range_count;  // 0 … kIndexPageRanges
  IndexPageChain chains[kIndexPageChains];
  IndexPageRange ranges[kIndexPageRanges];
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

constexpr uint64_t IndexPageHead(uint16_t position, uint16_t chains) {
  return uint64_t{1} << 32 | uint64_t{chains} << 16 | position;
}
constexpr bool IndexPageHeadValid(uint64_t head) {
  return head >> 32 & 1;
}
constexpr uint16_t IndexPageHeadPosition(uint64_t head) {
  return static_cast<uint16_t>(head);
}
constexpr uint16_t IndexPageHeadChains(uint64_t head) {
  return static_cast<uint16_t>(head >> 16);
}

struct IndexPage {
  uint32_t magic;
  uint32_t version;
  uint64_t generation;  // raised by the keeper, and every head cleared, when a front-end begins a new session
  IndexPageVring vrings[kIndexPageVrings];
};

}  // namespace everport
