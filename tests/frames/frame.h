#pragma once

// Builds and reads Ethernet frames byte by byte, with checksum code of its own and no DPDK: the reference that the
// data path is compared with.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace everport::frames {

using Bytes = std::vector<uint8_t>;

inline constexpr uint8_t kFin = 0x01, kSyn = 0x02, kPsh = 0x08, kAck = 0x10, kEce = 0x40, kCwr = 0x80;
inline constexpr uint8_t kTcp = 6, kUdp = 17;

struct FrameSpec {
  bool v6 = false;
  bool vlan = false;
  uint8_t protocol = kTcp;
  Bytes ip_options;   // IPv4; a multiple of 4, at most 40
  Bytes tcp_options;  // a multiple of 4, at most 40
  uint16_t ip_id = 1;
  uint32_t seq = 1;
  uint8_t tcp_flags = kAck;
  Bytes payload;

  size_t l2() const { return vlan ? 18 : 14; }
  size_t l3() const { return v6 ? 40 : 20 + ip_options.size(); }
  size_t l4() const { return protocol == kTcp ? 20 + tcp_options.size() : 8; }
  size_t headers() const { return l2() + l3() + l4(); }
};

enum class L4Checksum {
  kPseudoHeader,  // as a guest leaves it for the NIC to finish
  kFull,
};
// IP lengths and the IPv4 header checksum are right in both cases.
Bytes Build(const FrameSpec& spec, L4Checksum checksum);

// The ones' complement sum of bytes, folded to 16 bits and not inverted; a last odd byte is padded with 0.
uint16_t Sum16(const uint8_t* bytes, size_t n, uint32_t start = 0);

// True if a receiver would accept all checksums of the frame: IPv4 header (if v4), TCP or UDP over the IP length.
bool ChecksumsRight(const Bytes& frame);

}  // namespace everport::frames
