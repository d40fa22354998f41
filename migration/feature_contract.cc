#include "migration/feature_contract.h"

#include <array>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace everport {
namespace {

// Protocol feature bit numbers, vhost-user specification, "Protocol features". Written here because migration/ does not
// include backend/; tests/migration compares them with backend/vhost_user/message.h.
constexpr unsigned kProtocolMq = 0;
constexpr unsigned kProtocolLogShmfd = 1;
constexpr unsigned kProtocolRarp = 2;
constexpr unsigned kProtocolReplyAck = 3;
constexpr unsigned kProtocolMtu = 4;
constexpr unsigned kProtocolBackendReq = 5;
constexpr unsigned kProtocolResetDevice = 13;
constexpr unsigned kProtocolStatus = 16;

template <typename... Bits>
constexpr uint64_t Mask(Bits... bits) {
  return ((uint64_t{1} << bits) | ...);
}

// CONFIG (9) is left out: QEMU reads a net device's config space from itself and warns at each start when a net
// back-end offers it. INFLIGHT_SHMFD (12) too: QEMU's net devices never ask for the region.
constexpr uint64_t kProtocolFeatures = Mask(kProtocolMq, kProtocolLogShmfd, kProtocolRarp, kProtocolReplyAck,
                                            kProtocolMtu, kProtocolBackendReq, kProtocolResetDevice, kProtocolStatus);

// Virtio 1.2, 2.6 and 2.7.10.1: the largest queue size, which librte_vhost accepts as well.
constexpr uint16_t kMaxRingSize = 32768;

// What every offer has: without LOG_ALL QEMU blocks migration, without PROTOCOL_FEATURES it sends none of the rest.
constexpr uint64_t kCommon = Mask(kVersion1, kAnyLayout, kNetMrgRxbuf, kVhostLogAll, kVhostUserProtocolFeatures);

// Published contracts never change: guests that run on one, and hosts of another version, rely on every bit.
const std::array<FeatureContract, 2>& Contracts() {
  static const std::array<FeatureContract, 2> contracts = {{
      {.name = "everport-1",
       .features = kCommon | Mask(kRingPacked, kInOrder, kRingEventIdx, kRingIndirectDesc, kNetCsum, kNetGuestCsum,
                                  kNetHostTso4, kNetHostTso6, kNetGuestTso4, kNetGuestTso6, kNetMtu, kNetCtrlVq,
                                  kNetCtrlRx, kNetGuestAnnounce, kNetMq),
       .protocol_features = kProtocolFeatures,
       .max_mtu = 9216,
       .max_queue_pairs = 16,
       .max_ring_size = kMaxRingSize},
      // For old guests with drivers of little trust: no offloads, no extra ring formats, one queue pair.
      {.name = "minimal-1",
       .features = kCommon,
       .protocol_features = kProtocolFeatures,
       .max_mtu = 1500,
       .max_queue_pairs = 1,
       .max_ring_size = kMaxRingSize},
  }};
  return contracts;
}

struct NamedBit {
  unsigned bit;
  const char* name;
};

// Virtio 1.2, 5.1.3 and 6; linux/vhost.h for VHOST_F_LOG_ALL; vhost-user specification for bit 30. Lowest first.
constexpr NamedBit kNamedBits[] = {
    {kNetCsum, "VIRTIO_NET_F_CSUM"},
    {kNetGuestCsum, "VIRTIO_NET_F_GUEST_CSUM"},
    {kNetMtu, "VIRTIO_NET_F_MTU"},
    {kNetGuestTso4, "VIRTIO_NET_F_GUEST_TSO4"},
    {kNetGuestTso6, "VIRTIO_NET_F_GUEST_TSO6"},
    {kNetHostTso4, "VIRTIO_NET_F_HOST_TSO4"},
    {kNetHostTso6, "VIRTIO_NET_F_HOST_TSO6"},
    {kNetMrgRxbuf, "VIRTIO_NET_F_MRG_RXBUF"},
    {kNetCtrlVq, "VIRTIO_NET_F_CTRL_VQ"},
    {kNetCtrlRx, "VIRTIO_NET_F_CTRL_RX"},
    {kNetGuestAnnounce, "VIRTIO_NET_F_GUEST_ANNOUNCE"},
    {kNetMq, "VIRTIO_NET_F_MQ"},
    {kVhostLogAll, "VHOST_F_LOG_ALL"},
    {kAnyLayout, "VIRTIO_F_ANY_LAYOUT"},
    {kRingIndirectDesc, "VIRTIO_RING_F_INDIRECT_DESC"},
    {kRingEventIdx, "VIRTIO_RING_F_EVENT_IDX"},
    {kVhostUserProtocolFeatures, "VHOST_USER_F_PROTOCOL_FEATURES"},
    {kVersion1, "VIRTIO_F_VERSION_1"},
    {kRingPacked, "VIRTIO_F_RING_PACKED"},
    {kInOrder, "VIRTIO_F_IN_ORDER"},
};

}  // namespace

absl::StatusOr<FeatureContract> FindContract(std::string_view name) {
  for (const FeatureContract& contract : Contracts()) {
    if (contract.name == name) return contract;
  }
  return absl::NotFoundError(absl::StrCat("\"", std::string(name), "\" is not a feature contract; use one of ",
                                          absl::StrJoin(ContractNames(), ", ")));
}

std::vector<std::string> ContractNames() {
  std::vector<std::string> names;
  for (const FeatureContract& contract : Contracts()) names.push_back(contract.name);
  return names;
}

std::string FeatureName(unsigned bit) {
  for (const NamedBit& named : kNamedBits) {
    if (named.bit == bit) return named.name;
  }
  return absl::StrCat("bit ", bit);
}

std::vector<std::string> FeatureNames(uint64_t features) {
  std::vector<std::string> names;
  for (unsigned bit = 0; bit < 64; ++bit) {
    if (features >> bit & 1) names.push_back(FeatureName(bit));
  }
  return names;
}

}  // namespace everport
