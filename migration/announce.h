#pragma once

// How the network is told that a guest is here now: reverse ARP requests in the guest's name, which every switch on the
// way learns from. Pure values and functions; any thread.

#include <array>
#include <cstdint>
#include <vector>

#include "absl/time/time.h"

namespace everport {

using MacAddress = std::array<uint8_t, 6>;

// So many announcements are made, as QEMU makes them (announce-rounds): one may be lost.
inline constexpr int kAnnounceRounds = 5;
// From announcement round-1 to this one, 1 … kAnnounceRounds - 1 (announce-initial 50 ms, announce-step 100 ms); the
// first, 0, is made at once.
absl::Duration AnnounceDelay(int round);

// The announcement, without FCS. RFC 903: the guest's request for its own address, to all.
std::vector<uint8_t> MakeRarp(const MacAddress& mac);

}  // namespace everport
