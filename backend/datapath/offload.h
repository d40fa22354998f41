#pragma once

// Software checksums and TCP segmentation: what a guest asked of "the NIC" and the receiver cannot do itself.
// Input is what rte_vhost_dequeue_burst leaves in legacy mode (registered without NET_COMPLIANT_OL_FLAGS): one or no
// VLAN tag, RTE_MBUF_F_TX_* flags and header lengths from the frame's own bytes, so from a guest that may lie.
// A request that librte_vhost cannot match with the frame (csum_start behind two VLAN tags, IPv6 extension headers or
// inner headers) is lost before it comes here: that frame looks like one that asks for nothing.
//
// IPv4 TSO is librte_gso's plus checksums, IPv6 TSO is segment.h's (librte_gso has none). One stage belongs to one
// poller.

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"

struct rte_mbuf;
struct rte_mempool;

namespace everport {

// What a receiver takes as it is.
struct OffloadCaps {
  bool l4_checksum = false;  // TCP and UDP, with the pseudo-header sum in place (virtio 1.2, 5.1.6.2)
  bool tso4 = false;         // only together with l4_checksum
  bool tso6 = false;         // only together with l4_checksum
  uint16_t least_mss = 0;    // bytes; TSO to smaller segments is done in software
  uint16_t mtu = 1500;       // bytes of layer 3; 0: not checked
};

class OffloadStage {
 public:
  using Emit = absl::FunctionRef<void(rte_mbuf** frames, uint16_t n)>;
  static constexpr uint16_t kRound = 32;
  // A guest may ask for segments as small as it likes, each of which costs a frame: no link has a smaller MSS than
  // this (RFC 791's least MTU of 68 less 40 bytes of headers).
  static constexpr uint16_t kMinSegment = 28;

  // pool: where segments' headers are copied to; data room RTE_MBUF_DEFAULT_BUF_SIZE. indirect_pool: mbufs that refer
  // to the payload (data room 0 is enough); nullptr: pool. Both outlive every frame the stage has emitted.
  explicit OffloadStage(rte_mempool* pool, rte_mempool* indirect_pool = nullptr);

  // Takes all n frames; hands those fit for the receiver on, in order, by calls of emit, which takes them in turn.
  // Frames that ask for nothing: one call with the very same array. Otherwise calls with at most kRound frames each;
  // one frame can become thousands. What cannot be sent as asked is freed and counted.
  // Only TX flags count as asking: frames from an ethdev, with RX flags, pass once their length is checked.
  void Process(const OffloadCaps& caps, rte_mbuf** frames, uint16_t n, Emit emit);

  // Frames dropped since the last call because of what is in them: headers that lie or are not in the first mbuf,
  // protocols we do not know, longer than the receiver's MTU.
  uint64_t TakeMalformed() { return std::exchange(malformed_, 0); }
  // Frames dropped since the last call because a pool was empty.
  uint64_t TakeNoMbufs() { return std::exchange(no_mbufs_, 0); }

 private:
  class Round;
  void ProcessOne(const OffloadCaps& caps, rte_mbuf* frame, Round& round);
  void Segment(const OffloadCaps& caps, rte_mbuf* frame, Round& round);
  void Drop(rte_mbuf* frame, uint64_t& counter);

  rte_mempool* const pool_;
  rte_mempool* const indirect_pool_;
  std::vector<rte_mbuf*> segments_;  // of one frame
  uint64_t malformed_ = 0;
  uint64_t no_mbufs_ = 0;
};

}  // namespace everport
