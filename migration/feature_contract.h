#pragma once

// A feature contract: what a guest's NIC is, by name and version, whatever hardware is behind it. The front-end is
// offered what the contract says and nothing else, so ports of one contract are interchangeable between hosts.
// Pure values and functions; any thread.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace everport {

// Feature bit numbers that everport knows. Virtio 1.2: 5.1.3 (net), 6 (reserved); vhost: linux/vhost.h, vhost-user spec.
enum VirtioFeature : unsigned {
  kNetCsum = 0,
  kNetGuestCsum = 1,
  kNetMtu = 3,
  kNetGuestTso4 = 7,
  kNetGuestTso6 = 8,
  kNetHostTso4 = 11,
  kNetHostTso6 = 12,
  kNetMrgRxbuf = 15,
  kNetCtrlVq = 17,
  kNetCtrlRx = 18,
  kNetGuestAnnounce = 21,
  kNetMq = 22,
  kVhostLogAll = 26,
  kAnyLayout = 27,
  kRingIndirectDesc = 28,
  kRingEventIdx = 29,
  kVhostUserProtocolFeatures = 30,
  kVersion1 = 32,
  kRingPacked = 34,
  kInOrder = 35,
};

struct FeatureContract {
  std::string name;             // "everport-1": name and version in one; a published one never changes
  uint64_t features = 0;        // answer to GET_FEATURES
  uint64_t protocol_features = 0;  // answer to GET_PROTOCOL_FEATURES, bits of vhost_user::ProtocolFeature
  uint16_t max_mtu = 0;         // bytes
  uint16_t max_queue_pairs = 0;
  uint16_t max_ring_size = 0;   // descriptors

  bool operator==(const FeatureContract&) const = default;
};

// The built-in contract of that name, or NotFound naming those there are.
absl::StatusOr<FeatureContract> FindContract(std::string_view name);
std::vector<std::string> ContractNames();

// "VIRTIO_NET_F_MRG_RXBUF", or "bit 63" for one that everport does not know.
std::string FeatureName(unsigned bit);
// The names of all set bits, lowest first.
std::vector<std::string> FeatureNames(uint64_t features);

}  // namespace everport
