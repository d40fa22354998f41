#include "migration/announce.h"

#include <span>

namespace everport {

absl::Duration AnnounceDelay(int round) {
  return absl::Milliseconds(50 + 100 * (round - 1));
}

std::vector<uint8_t> MakeRarp(const MacAddress& mac) {
  constexpr size_t kShortest = 60;
  std::vector<uint8_t> frame(6, 0xff);  // to all
  const auto add = [&](std::span<const uint8_t> bytes) { frame.insert(frame.end(), bytes.begin(), bytes.end()); };
  constexpr uint8_t kRarpRequest[] = {0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3};  // type, Ethernet, IPv4, lengths, request
  constexpr uint8_t kNoAddress[4] = {};
  add(mac);
  add(kRarpRequest);
  for (int i = 0; i < 2; ++i) {  // sender, target
    add(mac);
    add(kNoAddress);
  }
  frame.resize(kShortest);
  return frame;
}

}  // namespace everport
