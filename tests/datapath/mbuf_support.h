#pragma once

// Frames of bytes into mbufs and back, and the offload requests librte_vhost would make of a guest's.

#include <cstdint>
#include <vector>

#include "tests/frames/frame.h"

struct rte_mbuf;
struct rte_mempool;

namespace everport {

// A mempool that knows whether all its mbufs have come home.
class TestPool {
 public:
  TestPool(const char* name, unsigned mbufs, uint16_t data_room);
  ~TestPool();
  TestPool(const TestPool&) = delete;
  TestPool& operator=(const TestPool&) = delete;
  rte_mempool* get() const { return pool_; }
  unsigned missing() const;

 private:
  rte_mempool* pool_;
};

// The bytes as a chain whose mbufs hold cuts[0], cuts[1] … bytes and the rest in full mbufs. Cuts beyond the data room
// or of 0 bytes are not allowed.
rte_mbuf* MbufOf(const frames::Bytes& frame, rte_mempool* pool, const std::vector<uint16_t>& cuts = {});
frames::Bytes BytesOf(const rte_mbuf* frame);

// Flags and lengths as vhost_dequeue_offload_legacy sets them for NEEDS_CSUM, and for GSO of `mss` bytes if not 0.
void Ask(rte_mbuf* frame, const frames::FrameSpec& spec, uint16_t mss = 0);

}  // namespace everport
