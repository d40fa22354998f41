#include "backend/datapath/offload.h"

#include <netinet/in.h>
#include <rte_ethdev.h>
#include <rte_gso.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_tcp.h>
#include <rte_udp.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "backend/datapath/segment.h"

namespace everport {
namespace {

constexpr uint64_t kAsking =
    RTE_MBUF_F_TX_TCP_SEG | RTE_MBUF_F_TX_UDP_SEG | RTE_MBUF_F_TX_L4_MASK | RTE_MBUF_F_TX_IP_CKSUM;
// A tagged frame may be that much longer than the MTU, as Linux's bridge has it.
constexpr uint32_t kL2Room = RTE_ETHER_HDR_LEN + RTE_VLAN_HLEN;
constexpr uint32_t kMaxIp = 65535;  // total length (IPv4), payload length (IPv6)
constexpr uint16_t kMaxSegments = kMaxIp / OffloadStage::kMinSegment + 1;

uint16_t Fold(uint64_t sum) {
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(sum);
}

// Ones' complement sum of n bytes (RFC 1071), a last odd one padded with 0. Three times rte_raw_cksum's speed at -O2.
uint16_t SumBytes(const uint8_t* at, uint32_t n) {
  uint64_t even = 0, odd = 0;  // of 32-bit words: no overflow below 16 GiB
  uint32_t words[4];
  for (; n >= sizeof words; n -= sizeof words, at += sizeof words) {
    std::memcpy(words, at, sizeof words);
    even += uint64_t{words[0]} + words[2];
    odd += uint64_t{words[1]} + words[3];
  }
  std::memset(words, 0, sizeof words);
  std::memcpy(words, at, n);
  return Fold(even + odd + words[0] + words[1] + words[2] + words[3]);
}

// Ones' complement sum of [offset, offset + length) of the frame, which must lie in it and begin in its first
// mbuf.
// Not rte_raw_cksum_mbuf: it drops carries of a piece that begins at an odd offset (22.11 to 24.11), and segments of
// an odd MSS that cross an mbuf have such pieces.
uint16_t Sum(const rte_mbuf* frame, uint32_t offset, uint32_t length) {
  uint32_t sum = 0;  // of up to 65535 bytes in pieces: no overflow
  uint32_t done = 0;
  for (; done < length; frame = frame->next, offset = 0) {
    const uint32_t take = std::min<uint32_t>(length - done, frame->data_len - offset);
    const uint16_t piece = SumBytes(rte_pktmbuf_mtod_offset(frame, const uint8_t*, offset), take);
    sum += done & 1 ? rte_bswap16(piece) : piece;
    done += take;
  }
  return Fold(sum);
}

// The headers of a frame that asks for something, checked against its bytes.
struct Headers {
  uint32_t l2, l3, l4;  // lengths; l4: TCP's with options, or UDP's
  bool v4;
  bool tcp;

  uint32_t l4_offset() const { return l2 + l3; }
  uint32_t size() const { return l2 + l3 + l4; }
  uint32_t checksum_offset() const {
    return l4_offset() + (tcp ? offsetof(rte_tcp_hdr, cksum) : offsetof(rte_udp_hdr, dgram_cksum));
  }
};

rte_ipv4_hdr* Ip4(rte_mbuf* frame, const Headers& h) {
  return rte_pktmbuf_mtod_offset(frame, rte_ipv4_hdr*, h.l2);
}
rte_ipv6_hdr* Ip6(rte_mbuf* frame, const Headers& h) {
  return rte_pktmbuf_mtod_offset(frame, rte_ipv6_hdr*, h.l2);
}

uint16_t Load16(const rte_mbuf* frame, uint32_t offset) {
  uint16_t value;
  std::memcpy(&value, rte_pktmbuf_mtod_offset(frame, const uint8_t*, offset), sizeof value);
  return value;
}
void Store16(rte_mbuf* frame, uint32_t offset, uint16_t value) {
  std::memcpy(rte_pktmbuf_mtod_offset(frame, uint8_t*, offset), &value, sizeof value);
}

// The layer 4 protocol by the IP header, or -1 if that is not as the flags and lengths say.
int CheckIp(rte_mbuf* frame, const Headers& h) {
  if (h.v4) {
    if (h.l3 < sizeof(rte_ipv4_hdr) || frame->data_len < h.l2 + h.l3) return -1;
    const rte_ipv4_hdr* ip = Ip4(frame, h);
    const uint16_t fragment = rte_be_to_cpu_16(ip->fragment_offset);
    if (ip->version_ihl != (0x40 | h.l3 / 4) || h.l3 % 4 != 0) return -1;
    if (fragment & (RTE_IPV4_HDR_OFFSET_MASK | RTE_IPV4_HDR_MF_FLAG)) return -1;
    return ip->next_proto_id;
  }
  if (h.l3 != sizeof(rte_ipv6_hdr) || frame->data_len < h.l2 + h.l3) return -1;
  const rte_ipv6_hdr* ip = Ip6(frame, h);
  if (*reinterpret_cast<const uint8_t*>(ip) >> 4 != 6) return -1;
  return ip->proto;
}

// librte_vhost checks some of this when it parses the guest's frame, but takes an IHL or a TCP data offset that is too
// small as it is, and looks at neither the IP version nor fragments nor lengths.
bool Parse(rte_mbuf* frame, Headers& h) {
  const uint64_t flags = frame->ol_flags;
  const uint64_t family = flags & (RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_IPV6);
  const uint64_t l4_asked = flags & RTE_MBUF_F_TX_L4_MASK;
  h.l2 = frame->l2_len;
  h.l3 = frame->l3_len;
  h.v4 = family == RTE_MBUF_F_TX_IPV4;
  h.tcp = flags & RTE_MBUF_F_TX_TCP_SEG || l4_asked == RTE_MBUF_F_TX_TCP_CKSUM;
  if (flags & RTE_MBUF_F_TX_UDP_SEG || l4_asked == RTE_MBUF_F_TX_SCTP_CKSUM) return false;  // in no contract
  if (h.tcp && l4_asked == RTE_MBUF_F_TX_UDP_CKSUM) return false;
  if (!h.v4 && family != RTE_MBUF_F_TX_IPV6) return false;
  if ((h.l2 != RTE_ETHER_HDR_LEN && h.l2 != kL2Room) || frame->data_len < h.l2) return false;
  if (Load16(frame, h.l2 - 2) != rte_cpu_to_be_16(h.v4 ? RTE_ETHER_TYPE_IPV4 : RTE_ETHER_TYPE_IPV6)) return false;
  const int protocol = CheckIp(frame, h);
  if (protocol < 0) return false;
  h.l4 = 0;
  if (!h.tcp && l4_asked == 0) return true;  // the IPv4 header's checksum only
  if (protocol != (h.tcp ? IPPROTO_TCP : IPPROTO_UDP)) return false;
  h.l4 = h.tcp ? sizeof(rte_tcp_hdr) : sizeof(rte_udp_hdr);
  if (frame->data_len < h.size()) return false;
  if (h.tcp) h.l4 = rte_pktmbuf_mtod_offset(frame, const rte_tcp_hdr*, h.l4_offset())->data_off / 16 * 4;
  return (!h.tcp || h.l4 >= sizeof(rte_tcp_hdr)) && frame->data_len >= h.size();
}

// Bytes of layer 4 by the IP header's length, without the padding of short frames; 0 if that length is a lie.
uint32_t L4Length(rte_mbuf* frame, const Headers& h) {
  uint32_t length = h.v4 ? rte_be_to_cpu_16(Ip4(frame, h)->total_length) : rte_be_to_cpu_16(Ip6(frame, h)->payload_len);
  if (h.v4) length = length > h.l3 ? length - h.l3 : 0;
  return length >= h.l4 && length <= frame->pkt_len - h.l4_offset() ? length : 0;
}

uint16_t PseudoHeaderSum(rte_mbuf* frame, const Headers& h, uint32_t l4_length) {
  const uint32_t offset = h.v4 ? h.l2 + offsetof(rte_ipv4_hdr, src_addr) : h.l2 + offsetof(rte_ipv6_hdr, src_addr);
  const uint32_t addresses = h.v4 ? 8 : 32;
  uint64_t sum = rte_raw_cksum(rte_pktmbuf_mtod_offset(frame, const void*, offset), addresses);
  sum += rte_cpu_to_be_16(static_cast<uint16_t>(l4_length));
  sum += rte_cpu_to_be_16(h.tcp ? IPPROTO_TCP : IPPROTO_UDP);
  return Fold(sum);
}

// What the checksum field holds (a pseudo-header's sum) is summed like the rest.
void FinishChecksum(rte_mbuf* frame, const Headers& h, uint32_t l4_length) {
  uint16_t checksum = static_cast<uint16_t>(~Sum(frame, h.l4_offset(), l4_length));
  if (!h.tcp && checksum == 0) checksum = 0xffff;  // RFC 768: 0 says there is none
  Store16(frame, h.checksum_offset(), checksum);
}

void ChecksumIp4(rte_mbuf* frame, const Headers& h) {
  rte_ipv4_hdr* ip = Ip4(frame, h);
  ip->hdr_checksum = 0;
  ip->hdr_checksum = rte_ipv4_cksum(ip);
}

// A TSO frame's lengths are the segmenter's to write: some guests leave them 0, and a wrong one must not get further.
bool SetIpLength(rte_mbuf* frame, const Headers& h) {
  const uint32_t length = frame->pkt_len - (h.v4 ? h.l2 : h.l4_offset());
  if (length > kMaxIp) return false;
  const uint16_t field = rte_cpu_to_be_16(static_cast<uint16_t>(length));
  if (h.v4) {
    Ip4(frame, h)->total_length = field;
  } else {
    Ip6(frame, h)->payload_len = field;
  }
  return true;
}

// All checksums of a TCP frame whose lengths are right, whatever the checksum field holds. It asks for nothing more.
void ChecksumAll(rte_mbuf* frame, const Headers& h) {
  const uint32_t l4_length = frame->pkt_len - h.l4_offset();
  if (h.v4) ChecksumIp4(frame, h);
  Store16(frame, h.checksum_offset(), PseudoHeaderSum(frame, h, l4_length));
  FinishChecksum(frame, h, l4_length);
  frame->ol_flags &= ~RTE_MBUF_F_TX_OFFLOAD_MASK;
}

// librte_gso does all but CWR (RFC 3168, 6.1.2: on the first segment only) and the checksums.
int SegmentTcp4(rte_mbuf* frame, const Headers& h, rte_mempool* direct, rte_mempool* indirect, rte_mbuf** out,
                uint16_t capacity) {
  rte_gso_ctx context{};
  context.direct_pool = direct;
  context.indirect_pool = indirect;
  context.gso_types = RTE_ETH_TX_OFFLOAD_TCP_TSO;
  context.gso_size = static_cast<uint16_t>(h.size() + frame->tso_segsz);
  const int n = rte_gso_segment(frame, &context, out, capacity);
  for (int i = 1; i < n; ++i) {
    rte_pktmbuf_mtod_offset(out[i], rte_tcp_hdr*, h.l4_offset())->tcp_flags &= static_cast<uint8_t>(~RTE_TCP_CWR_FLAG);
  }
  return n;
}

}  // namespace

// Frames ready for emit, gathered to bursts.
class OffloadStage::Round {
 public:
  explicit Round(Emit emit) : emit_(emit) {}
  void Add(rte_mbuf* frame) {
    frames_[n_++] = frame;
    if (n_ == kRound) Flush();
  }
  void Flush() {
    if (n_ > 0) emit_(frames_, std::exchange(n_, uint16_t{0}));
  }

 private:
  Emit emit_;
  rte_mbuf* frames_[kRound];
  uint16_t n_ = 0;
};

OffloadStage::OffloadStage(rte_mempool* pool, rte_mempool* indirect_pool)
    : pool_(pool), indirect_pool_(indirect_pool ? indirect_pool : pool), segments_(kMaxSegments) {}

void OffloadStage::Process(const OffloadCaps& caps, rte_mbuf** frames, uint16_t n, Emit emit) {
  const uint32_t longest_allowed = caps.mtu ? caps.mtu + kL2Room : UINT32_MAX;
  uint64_t flags = 0;
  uint32_t longest = 0;
  for (uint16_t i = 0; i < n; ++i) {
    flags |= frames[i]->ol_flags;
    longest = std::max(longest, frames[i]->pkt_len);
  }
  if (!(flags & kAsking) && longest <= longest_allowed) [[likely]] {
    if (n > 0) emit(frames, n);
    return;
  }
  Round round(emit);
  for (uint16_t i = 0; i < n; ++i) ProcessOne(caps, frames[i], round);
  round.Flush();
}

void OffloadStage::ProcessOne(const OffloadCaps& caps, rte_mbuf* frame, Round& round) {
  const uint64_t asked = frame->ol_flags & kAsking;
  if (asked & RTE_MBUF_F_TX_TCP_SEG) return Segment(caps, frame, round);
  if (caps.mtu && frame->pkt_len > caps.mtu + kL2Room) return Drop(frame, malformed_);
  if (asked) {
    Headers h;
    if (!Parse(frame, h)) return Drop(frame, malformed_);
    if (asked & RTE_MBUF_F_TX_L4_MASK) {
      const uint32_t l4_length = L4Length(frame, h);
      if (l4_length == 0) return Drop(frame, malformed_);
      if (!caps.l4_checksum) FinishChecksum(frame, h, l4_length);
    }
    if (!caps.l4_checksum) {
      if (asked & RTE_MBUF_F_TX_IP_CKSUM && h.v4) ChecksumIp4(frame, h);
      frame->ol_flags &= ~RTE_MBUF_F_TX_OFFLOAD_MASK;
    }
  }
  round.Add(frame);
}

void OffloadStage::Segment(const OffloadCaps& caps, rte_mbuf* frame, Round& round) {
  Headers h;
  const uint16_t mss = frame->tso_segsz;
  if (!Parse(frame, h) || mss < kMinSegment || !SetIpLength(frame, h)) return Drop(frame, malformed_);
  const uint32_t payload = frame->pkt_len - h.size();
  const uint32_t longest_ip = h.l3 + h.l4 + std::min<uint32_t>(mss, payload);
  if (longest_ip > (caps.mtu ? caps.mtu : kMaxIp - RTE_ETHER_MAX_LEN)) return Drop(frame, malformed_);
  frame->l4_len = h.l4;
  if (payload <= mss) {
    ChecksumAll(frame, h);
    return round.Add(frame);
  }
  if (caps.l4_checksum && mss >= caps.least_mss && (h.v4 ? caps.tso4 : caps.tso6)) {
    frame->ol_flags |= RTE_MBUF_F_TX_TCP_CKSUM | (h.v4 ? RTE_MBUF_F_TX_IP_CKSUM : 0);
    return round.Add(frame);
  }
  const int n = h.v4 ? SegmentTcp4(frame, h, pool_, indirect_pool_, segments_.data(), kMaxSegments)
                     : SegmentTcp6(frame, mss, pool_, indirect_pool_, segments_.data(), kMaxSegments);
  if (n <= 0) return Drop(frame, n == -ENOMEM ? no_mbufs_ : malformed_);
  rte_pktmbuf_free(frame);  // the segments hold its payload
  for (int i = 0; i < n; ++i) {
    ChecksumAll(segments_[i], h);
    round.Add(segments_[i]);
  }
}

void OffloadStage::Drop(rte_mbuf* frame, uint64_t& counter) {
  rte_pktmbuf_free(frame);
  ++counter;
}

}  // namespace everport
