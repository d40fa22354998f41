#include "tests/frames/frame.h"

namespace everport::frames {
namespace {

void Put16(Bytes& to, size_t value) {
  to.push_back(static_cast<uint8_t>(value >> 8));
  to.push_back(static_cast<uint8_t>(value));
}
void Put32(Bytes& to, uint32_t value) {
  Put16(to, value >> 16);
  Put16(to, value & 0xffff);
}
void Set16(Bytes& in, size_t at, uint16_t value) {
  in[at] = static_cast<uint8_t>(value >> 8);
  in[at + 1] = static_cast<uint8_t>(value);
}
uint16_t Get16(const Bytes& from, size_t at) {
  return static_cast<uint16_t>(from[at] << 8 | from[at + 1]);
}

void PutEthernet(Bytes& to, const FrameSpec& spec) {
  to.insert(to.end(), {0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1});
  if (spec.vlan) to.insert(to.end(), {0x81, 0x00, 0x00, 0x64});
  Put16(to, spec.v6 ? 0x86dd : 0x0800);
}

void PutIp4(Bytes& to, const FrameSpec& spec) {
  const size_t start = to.size();
  to.push_back(static_cast<uint8_t>(0x40 | spec.l3() / 4));
  to.push_back(0);
  Put16(to, spec.l3() + spec.l4() + spec.payload.size());
  Put16(to, spec.ip_id);
  Put16(to, 0x4000);  // don't fragment
  to.insert(to.end(), {64, spec.protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, 254});
  to.insert(to.end(), spec.ip_options.begin(), spec.ip_options.end());
  Set16(to, start + 10, static_cast<uint16_t>(~Sum16(to.data() + start, spec.l3())));
}

void PutIp6(Bytes& to, const FrameSpec& spec) {
  Put32(to, 0x60012345);
  Put16(to, spec.l4() + spec.payload.size());
  to.insert(to.end(), {spec.protocol, 64});
  for (uint8_t host : {uint8_t{1}, uint8_t{0xfe}}) {
    to.insert(to.end(), {0x20, 0x01, 0x0d, 0xb8, 0xff, 0xff, 0, host, 0, 0, 0, 0, 0xab, 0xcd, 0, host});
  }
}

void PutL4(Bytes& to, const FrameSpec& spec) {
  Put16(to, 40000);
  Put16(to, 443);
  if (spec.protocol == kTcp) {
    Put32(to, spec.seq);
    Put32(to, 0x01020304);
    to.push_back(static_cast<uint8_t>(spec.l4() / 4 << 4));
    to.push_back(spec.tcp_flags);
    Put16(to, 0xfaf0);
    Put32(to, 0);  // checksum, urgent pointer
    to.insert(to.end(), spec.tcp_options.begin(), spec.tcp_options.end());
  } else {
    Put16(to, 8 + spec.payload.size());
    Put16(to, 0);
  }
  to.insert(to.end(), spec.payload.begin(), spec.payload.end());
}

uint16_t PseudoHeader(const Bytes& frame, size_t l3_at, bool v6, uint8_t protocol, size_t l4_length) {
  Bytes pseudo(frame.begin() + static_cast<ptrdiff_t>(l3_at + (v6 ? 8 : 12)),
               frame.begin() + static_cast<ptrdiff_t>(l3_at + (v6 ? 40 : 20)));
  Put32(pseudo, static_cast<uint32_t>(l4_length));
  Put32(pseudo, protocol);
  return Sum16(pseudo.data(), pseudo.size());
}

}  // namespace

uint16_t Sum16(const uint8_t* bytes, size_t n, uint32_t start) {
  uint32_t sum = start;
  for (size_t i = 0; i < n; ++i) {
    sum += i % 2 == 0 ? static_cast<uint32_t>(bytes[i]) << 8 : bytes[i];
    sum = (sum & 0xffff) + (sum >> 16);
  }
  return static_cast<uint16_t>(sum);
}

Bytes Build(const FrameSpec& spec, L4Checksum checksum) {
  Bytes frame;
  frame.reserve(spec.headers() + spec.payload.size());
  PutEthernet(frame, spec);
  spec.v6 ? PutIp6(frame, spec) : PutIp4(frame, spec);
  PutL4(frame, spec);
  const size_t l4_at = spec.l2() + spec.l3();
  const size_t l4_length = spec.l4() + spec.payload.size();
  uint16_t sum = PseudoHeader(frame, spec.l2(), spec.v6, spec.protocol, l4_length);
  if (checksum == L4Checksum::kFull) {
    sum = static_cast<uint16_t>(~Sum16(frame.data() + l4_at, l4_length, sum));
    if (spec.protocol == kUdp && sum == 0) sum = 0xffff;
  }
  Set16(frame, l4_at + (spec.protocol == kTcp ? 16 : 6), sum);
  return frame;
}

bool ChecksumsRight(const Bytes& frame) {
  const size_t l2 = Get16(frame, 12) == 0x8100 ? 18 : 14;
  const bool v6 = Get16(frame, l2 - 2) == 0x86dd;
  const size_t l3 = v6 ? 40 : (frame[l2] & 15u) * 4;
  if (!v6 && Sum16(frame.data() + l2, l3) != 0xffff) return false;
  const uint8_t protocol = frame[l2 + (v6 ? 6 : 9)];
  const size_t l4_length = v6 ? Get16(frame, l2 + 4) : Get16(frame, l2 + 2) - l3;
  if (l2 + l3 + l4_length > frame.size()) return false;
  if (protocol == kUdp && Get16(frame, l2 + l3 + 6) == 0) return false;  // none
  return Sum16(frame.data() + l2 + l3, l4_length, PseudoHeader(frame, l2, v6, protocol, l4_length)) == 0xffff;
}

}  // namespace everport::frames
