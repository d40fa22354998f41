#pragma once

// TCP segmentation over IPv6, which librte_gso lacks, in its manner: each segment is a copy of the headers in a direct
// mbuf followed by indirect mbufs that refer to the payload where it is.

#include <cstdint>

struct rte_mbuf;
struct rte_mempool;

namespace everport {

// Splits frame into segments of `mss` payload bytes, the last one shorter. Header fields are set (payload length,
// sequence number; FIN and PSH stay on the last segment, CWR on the first), the TCP checksum is not.
// frame: l2_len, l3_len = 40, l4_len say where the headers are, all of them in the first mbuf, TCP right behind the
// IPv6 header; there is payload; no mbuf of the chain is empty. It stays the caller's, who frees it afterwards.
// Returns the number of segments in out, or -ENOMEM (a pool is empty) or -EINVAL (capacity too small) with none.
int SegmentTcp6(rte_mbuf* frame, uint16_t mss, rte_mempool* direct, rte_mempool* indirect, rte_mbuf** out,
                uint16_t capacity);

}  // namespace everport
