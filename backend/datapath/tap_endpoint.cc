#include "backend/datapath/tap_endpoint.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <rte_mbuf.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "backend/base/log.h"
#include "backend/datapath/tap_device.h"

namespace everport {
namespace {

constexpr size_t kMaxParts = 64;              // header and mbufs of one frame
constexpr size_t kLongestFrame = 65536 + 18;  // a GSO frame: 64 KiB of IP, Ethernet and a VLAN tag
constexpr size_t kEthernet = 18;

// virtio 1.2, 5.1.6 (linux/virtio_net.h has a field called "class").
struct NetHeader {
  uint8_t flags;
  uint8_t gso_type;
  uint16_t hdr_len;
  uint16_t gso_size;
  uint16_t csum_start;
  uint16_t csum_offset;
};
static_assert(sizeof(NetHeader) == 10);
constexpr uint8_t kNeedsChecksum = 1;
constexpr uint8_t kGsoNone = 0, kGsoTcp4 = 1, kGsoTcp6 = 4, kGsoEcn = 0x80;

// What the kernel is to do with a frame, from what librte_vhost found in the guest's header (offload.h has checked it).
NetHeader HeaderOf(const rte_mbuf& frame) {
  NetHeader header{};
  const uint64_t l4 = frame.ol_flags & RTE_MBUF_F_TX_L4_MASK;
  if (l4 == RTE_MBUF_F_TX_TCP_CKSUM || l4 == RTE_MBUF_F_TX_UDP_CKSUM || (frame.ol_flags & RTE_MBUF_F_TX_TCP_SEG)) {
    header.flags = kNeedsChecksum;
    header.csum_start = static_cast<uint16_t>(frame.l2_len + frame.l3_len);
    header.csum_offset = l4 == RTE_MBUF_F_TX_UDP_CKSUM ? 6 : 16;
  }
  if (frame.ol_flags & RTE_MBUF_F_TX_TCP_SEG) {
    header.gso_type = frame.ol_flags & RTE_MBUF_F_TX_IPV4 ? kGsoTcp4 : kGsoTcp6;
    header.gso_size = frame.tso_segsz;
    header.hdr_len = static_cast<uint16_t>(frame.l2_len + frame.l3_len + frame.l4_len);
  }
  return header;
}

// The other way: flags as rte_vhost_enqueue_burst wants them, which makes the guest's header of them. The header is the
// kernel's own, but the offsets are checked against the frame all the same. false: nothing that we know.
bool ApplyHeader(const NetHeader& header, rte_mbuf& frame) {
  if (!(header.flags & kNeedsChecksum)) return header.gso_type == kGsoNone;
  const auto* bytes = rte_pktmbuf_mtod(&frame, const uint8_t*);
  if (frame.data_len < 14) return false;
  const bool tagged = bytes[12] == 0x81 && bytes[13] == 0x00;
  const uint16_t l2 = tagged ? 18 : 14;
  if (header.csum_start <= l2 || frame.data_len < header.csum_start + header.csum_offset + 2) return false;
  const bool v4 = bytes[l2 - 2] == 0x08 && bytes[l2 - 1] == 0x00;
  frame.l2_len = l2;
  frame.l3_len = header.csum_start - l2;
  frame.ol_flags |= v4 ? RTE_MBUF_F_TX_IPV4 : RTE_MBUF_F_TX_IPV6;
  frame.ol_flags |= header.csum_offset == 6 ? RTE_MBUF_F_TX_UDP_CKSUM : RTE_MBUF_F_TX_TCP_CKSUM;
  const uint8_t gso = header.gso_type & ~kGsoEcn;
  if (gso == kGsoNone) return true;
  if ((gso != kGsoTcp4 && gso != kGsoTcp6) || frame.data_len < header.csum_start + 20) return false;
  frame.ol_flags |= RTE_MBUF_F_TX_TCP_SEG;
  frame.tso_segsz = header.gso_size;
  frame.l4_len = (bytes[header.csum_start + 12] >> 4) * 4;
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TapEndpoint>> TapEndpoint::Open(const Options& options) {
  if (absl::Status status = SetMtu(options.name, options.mtu); !status.ok()) return status;
  std::unique_ptr<TapEndpoint> endpoint(new TapEndpoint(options.name, options.mtu, options.pool));
  for (uint16_t i = 0; i < options.queue_pairs; ++i) {
    absl::StatusOr<UniqueFd> fd = OpenTapQueue(options.name);
    if (!fd.ok()) return fd.status();
    Queue queue;
    queue.fd = std::move(*fd);
    endpoint->queues_.push_back(std::move(queue));
  }
  endpoint->set_receive_caps(OffloadCaps{});
  if (absl::Status status = SetUp(options.name); !status.ok()) return status;
  return endpoint;
}

TapEndpoint::~TapEndpoint() {
  for (Queue& queue : queues_) {
    for (rte_mbuf* buffer : queue.buffers) rte_pktmbuf_free(buffer);
  }
}

OffloadCaps TapEndpoint::transmit_caps() const {
  OffloadCaps caps;
  caps.l4_checksum = caps.tso4 = caps.tso6 = true;
  caps.mtu = mtu_;
  return caps;
}

// Before the poller has the endpoint. TUNSETOFFLOAD holds for the device as a whole.
void TapEndpoint::set_receive_caps(const OffloadCaps& caps) {
  unsigned offloads = 0;
  if (caps.l4_checksum) offloads |= TUN_F_CSUM;
  if (caps.l4_checksum && caps.tso4) offloads |= TUN_F_TSO4;
  if (caps.l4_checksum && caps.tso6) offloads |= TUN_F_TSO6;
  if (ioctl(queues_[0].fd.get(), TUNSETOFFLOAD, offloads) != 0) {
    spdlog::warn("tap {}: the kernel refuses offloads ({}); it segments by itself, which is slower", name_,
                 strerror(errno));
    offloads = 0;
  }
  large_receive_ = offloads & (TUN_F_TSO4 | TUN_F_TSO6);
}

size_t TapEndpoint::buffers_per_frame() const {
  const size_t longest = large_receive_ ? kLongestFrame : mtu_ + kEthernet;
  const size_t room = rte_pktmbuf_data_room_size(pool_) - RTE_PKTMBUF_HEADROOM;
  return (longest + room - 1) / room;
}

bool TapEndpoint::Refill(Queue& queue) const {
  const size_t have = queue.buffers.size(), want = buffers_per_frame();
  if (have >= want) return true;
  queue.buffers.resize(want);
  if (rte_pktmbuf_alloc_bulk(pool_, queue.buffers.data() + have, static_cast<unsigned>(want - have)) == 0) return true;
  queue.buffers.resize(have);
  return false;
}

uint16_t TapEndpoint::Receive(uint16_t queue_index, rte_mbuf** frames, uint16_t n) {
  Queue& queue = queues_[queue_index];
  uint16_t got = 0;
  // Frames that are refused count against the burst as well: a flood of them does not hold the poller up.
  for (uint16_t reads = 0; reads < n; ++reads) {
    const ReadResult result = ReadOne(queue, &frames[got]);
    if (result == ReadResult::kNothing) break;
    if (result == ReadResult::kFrame) ++got;
  }
  return got;
}

TapEndpoint::ReadResult TapEndpoint::ReadOne(Queue& queue, rte_mbuf** frame) {
  if (gone_.load(std::memory_order_relaxed) || !Refill(queue)) return ReadResult::kNothing;  // it waits in the kernel
  NetHeader header;
  iovec parts[kMaxParts];
  parts[0] = {&header, sizeof header};
  const size_t buffers = queue.buffers.size();
  for (size_t i = 0; i < buffers; ++i)
    parts[i + 1] = {rte_pktmbuf_mtod(queue.buffers[i], void*), rte_pktmbuf_tailroom(queue.buffers[i])};
  const ssize_t n = readv(queue.fd.get(), parts, static_cast<int>(buffers + 1));
  if (n < 0 && errno == EBADFD) gone_.store(true, std::memory_order_relaxed);
  if (n <= static_cast<ssize_t>(sizeof header)) return ReadResult::kNothing;

  size_t left = static_cast<size_t>(n) - sizeof header, used = 0;
  rte_mbuf* head = queue.buffers[0];
  head->pkt_len = static_cast<uint32_t>(left);
  for (rte_mbuf** link = &head; left > 0; ++used) {
    rte_mbuf* buffer = queue.buffers[used];
    buffer->data_len = static_cast<uint16_t>(std::min(left, parts[used + 1].iov_len));
    left -= buffer->data_len;
    *link = buffer;
    link = &buffer->next;
  }
  head->nb_segs = static_cast<uint16_t>(used);
  queue.buffers.erase(queue.buffers.begin(), queue.buffers.begin() + static_cast<ptrdiff_t>(used));
  if (!ApplyHeader(header, *head)) {
    rte_pktmbuf_free(head);
    return ReadResult::kRefused;
  }
  *frame = head;
  return ReadResult::kFrame;
}

// Full: it may be tried again. Refused: the kernel does not want this frame, or any (the device is down or has gone).
TapEndpoint::WriteResult TapEndpoint::WriteOne(const Queue& queue, rte_mbuf* frame) {
  NetHeader header = HeaderOf(*frame);
  iovec parts[kMaxParts];
  parts[0] = {&header, sizeof header};
  int count = 1;
  for (rte_mbuf* part = frame; part; part = part->next) {
    if (count == static_cast<int>(kMaxParts)) return WriteResult::kRefused;
    parts[count++] = {rte_pktmbuf_mtod(part, void*), part->data_len};
  }
  if (writev(queue.fd.get(), parts, count) >= 0) return WriteResult::kSent;
  if (errno == EBADFD) gone_.store(true, std::memory_order_relaxed);
  return errno == EAGAIN || errno == ENOBUFS ? WriteResult::kFull : WriteResult::kRefused;
}

uint16_t TapEndpoint::Transmit(uint16_t queue_index, rte_mbuf** frames, uint16_t n) {
  const Queue& queue = queues_[queue_index];
  uint16_t sent = 0;
  while (sent < n) {
    const WriteResult result = WriteOne(queue, frames[sent]);
    if (result == WriteResult::kFull) break;
    if (result == WriteResult::kRefused) refused_.fetch_add(1, std::memory_order_relaxed);
    ++sent;
  }
  rte_pktmbuf_free_bulk(frames, sent);
  return sent;
}

std::vector<Endpoint::WakeFd> TapEndpoint::WakeFds(bool&) {
  std::vector<WakeFd> fds;
  if (trouble() == Trouble::kRemoved) return fds;  // they would report an error for ever
  for (const Queue& queue : queues_) fds.push_back({queue.fd.Dup(), false});
  return fds;
}

}  // namespace everport
