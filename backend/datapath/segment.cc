#include "backend/datapath/segment.h"

#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_tcp.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace everport {
namespace {

// Where the payload not yet given to a segment begins.
struct Cursor {
  rte_mbuf* mbuf;
  uint16_t offset;  // into its data
};

void Normalise(Cursor& at) {
  while (at.mbuf && at.offset == at.mbuf->data_len) at = {at.mbuf->next, 0};
}

rte_mbuf* CopyHeaders(const rte_mbuf* frame, uint16_t length, rte_mempool* direct) {
  rte_mbuf* head = rte_pktmbuf_alloc(direct);
  if (!head) return nullptr;
  head->port = frame->port;
  head->packet_type = frame->packet_type;
  head->tx_offload = frame->tx_offload;
  head->pkt_len = head->data_len = length;
  std::memcpy(rte_pktmbuf_mtod(head, void*), rte_pktmbuf_mtod(frame, const void*), length);
  return head;
}

// Chains mbufs that refer to up to `left` payload bytes behind head. False when the pool is empty.
bool AttachPayload(rte_mbuf* head, uint32_t left, Cursor& at, rte_mempool* indirect) {
  rte_mbuf* tail = head;
  for (; left > 0 && at.mbuf; Normalise(at)) {
    rte_mbuf* piece = rte_pktmbuf_alloc(indirect);
    if (!piece) return false;
    rte_pktmbuf_attach(piece, at.mbuf);
    const uint16_t take = static_cast<uint16_t>(std::min<uint32_t>(left, at.mbuf->data_len - at.offset));
    piece->data_off = at.mbuf->data_off + at.offset;
    piece->data_len = take;
    tail->next = piece;
    tail = piece;
    ++head->nb_segs;
    head->pkt_len += take;
    at.offset += take;
    left -= take;
  }
  return true;
}

void FixHeaders(rte_mbuf* segment, uint32_t payload_before, bool first, bool last) {
  auto* ip = rte_pktmbuf_mtod_offset(segment, rte_ipv6_hdr*, segment->l2_len);
  auto* tcp = rte_pktmbuf_mtod_offset(segment, rte_tcp_hdr*, segment->l2_len + segment->l3_len);
  ip->payload_len = rte_cpu_to_be_16(static_cast<uint16_t>(segment->pkt_len - segment->l2_len - segment->l3_len));
  tcp->sent_seq = rte_cpu_to_be_32(rte_be_to_cpu_32(tcp->sent_seq) + payload_before);
  if (!last) tcp->tcp_flags &= static_cast<uint8_t>(~(RTE_TCP_FIN_FLAG | RTE_TCP_PSH_FLAG));
  if (!first) tcp->tcp_flags &= static_cast<uint8_t>(~RTE_TCP_CWR_FLAG);
}

}  // namespace

int SegmentTcp6(rte_mbuf* frame, uint16_t mss, rte_mempool* direct, rte_mempool* indirect, rte_mbuf** out,
                uint16_t capacity) {
  const uint16_t headers = static_cast<uint16_t>(frame->l2_len + frame->l3_len + frame->l4_len);
  Cursor at{frame, headers};
  Normalise(at);
  int result = 0;
  uint32_t sent = 0;
  uint16_t n = 0;
  while (at.mbuf) {
    if (n == capacity) {
      result = -EINVAL;
      break;
    }
    rte_mbuf* segment = CopyHeaders(frame, headers, direct);
    if (segment) out[n++] = segment;
    if (!segment || !AttachPayload(segment, mss, at, indirect)) {
      result = -ENOMEM;
      break;
    }
    FixHeaders(segment, sent, n == 1, !at.mbuf);
    sent += segment->pkt_len - headers;
  }
  if (result == 0) return n;
  rte_pktmbuf_free_bulk(out, n);
  return result;
}

}  // namespace everport
