#include "tests/datapath/mbuf_support.h"

#include <rte_mbuf.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace everport {
namespace {

void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "mbuf_support: %s\n", what);
  std::abort();
}

}  // namespace

TestPool::TestPool(const char* name, unsigned mbufs, uint16_t data_room)
    : pool_(rte_pktmbuf_pool_create(name, mbufs, mbufs < 512 ? 0 : 64, 0, data_room, SOCKET_ID_ANY)) {
  Require(pool_ != nullptr, "no memory for the pool");
}
TestPool::~TestPool() {
  rte_mempool_free(pool_);
}
unsigned TestPool::missing() const {
  return rte_mempool_in_use_count(pool_);
}

rte_mbuf* MbufOf(const frames::Bytes& frame, rte_mempool* pool, const std::vector<uint16_t>& cuts) {
  rte_mbuf* head = nullptr;
  size_t at = 0;
  for (size_t i = 0; at < frame.size(); ++i) {
    rte_mbuf* piece = rte_pktmbuf_alloc(pool);
    Require(piece != nullptr, "pool is empty");
    const size_t want = i < cuts.size() ? cuts[i] : rte_pktmbuf_tailroom(piece);
    const size_t take = std::min(want, frame.size() - at);
    char* to = rte_pktmbuf_append(piece, static_cast<uint16_t>(take));
    Require(take > 0 && to != nullptr, "a cut of no or too many bytes");
    std::memcpy(to, frame.data() + at, take);
    at += take;
    if (!head) {
      head = piece;
    } else {
      Require(rte_pktmbuf_chain(head, piece) == 0, "too many mbufs");
    }
  }
  return head;
}

frames::Bytes BytesOf(const rte_mbuf* frame) {
  frames::Bytes bytes;
  for (const rte_mbuf* piece = frame; piece; piece = piece->next) {
    const auto* from = rte_pktmbuf_mtod(piece, const uint8_t*);
    bytes.insert(bytes.end(), from, from + piece->data_len);
  }
  Require(bytes.size() == frame->pkt_len, "pkt_len is not the sum of data_len");
  return bytes;
}

void Ask(rte_mbuf* frame, const frames::FrameSpec& spec, uint16_t mss) {
  frame->l2_len = spec.l2();
  frame->l3_len = spec.l3();
  frame->ol_flags |= spec.v6 ? RTE_MBUF_F_TX_IPV6 : RTE_MBUF_F_TX_IPV4;
  frame->ol_flags |= spec.protocol == frames::kTcp ? RTE_MBUF_F_TX_TCP_CKSUM : RTE_MBUF_F_TX_UDP_CKSUM;
  if (mss == 0) return;
  frame->ol_flags |= RTE_MBUF_F_TX_TCP_SEG;
  frame->tso_segsz = mss;
  frame->l4_len = spec.l4();
}

}  // namespace everport
