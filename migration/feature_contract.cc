#include "migration/feature_contract.h"

#include <algorithm>
#include <array>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace everport {
namespace {

// Protocol feature bit numbers, vhost-user specification, "Protocol features". Written here because migration/ does not
// include backend/; tests/migration compares them with backend/vhost_user/message.h.
constexpr unsigned kProtocolMq = kContractProtocolMq;
constexpr unsigned kProtocolLogShmfd = kContractProtocolLogShmfd;
constexpr unsigned kProtocolRarp = kContractProtocolRarp;
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
// What QEMU's virtio-net rings have at least (rx_queue_size, tx_queue_size): with less no guest could start.
constexpr uint16_t kLeastRingSize = 256;

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

// vhost-user specification, "Protocol features"; those that everport has to do with. Lowest first.
constexpr NamedBit kNamedProtocolBits[] = {
    {kProtocolMq, "MQ"},
    {kProtocolLogShmfd, "LOG_SHMFD"},
    {kProtocolRarp, "RARP"},
    {kProtocolReplyAck, "REPLY_ACK"},
    {kProtocolMtu, "MTU"},
    {kProtocolBackendReq, "BACKEND_REQ"},
    {kContractProtocolPagefault, "PAGEFAULT"},
    {9, "CONFIG"},
    {12, "INFLIGHT_SHMFD"},
    {kProtocolResetDevice, "RESET_DEVICE"},
    {15, "CONFIGURE_MEM_SLOTS"},
    {kProtocolStatus, "STATUS"},
};

// Virtio 1.2, 5.1.3.1 and 6.1: the first needs the second.
struct Dependency {
  unsigned feature, needed;
};
constexpr Dependency kDependencies[] = {
    {kNetGuestTso4, kNetGuestCsum}, {kNetGuestTso6, kNetGuestCsum},  {kNetHostTso4, kNetCsum}, {kNetHostTso6, kNetCsum},
    {kNetCtrlRx, kNetCtrlVq},       {kNetGuestAnnounce, kNetCtrlVq}, {kNetMq, kNetCtrlVq},     {kRingPacked, kVersion1},
};

template <size_t N>
std::string NameIn(const NamedBit (&names)[N], unsigned bit) {
  for (const NamedBit& named : names) {
    if (named.bit == bit) return named.name;
  }
  return absl::StrCat("bit ", bit);
}

template <size_t N>
std::vector<std::string> NamesIn(const NamedBit (&names)[N], uint64_t bits) {
  std::vector<std::string> found;
  for (unsigned bit = 0; bit < 64; ++bit) {
    if (bits >> bit & 1) found.push_back(NameIn(names, bit));
  }
  return found;
}

template <size_t N>
std::optional<unsigned> BitIn(const NamedBit (&names)[N], std::string_view name) {
  for (const NamedBit& named : names) {
    if (named.name == name) return named.bit;
  }
  return std::nullopt;
}

template <size_t N>
uint64_t AllOf(const NamedBit (&names)[N]) {
  uint64_t bits = 0;
  for (const NamedBit& named : names) bits |= Mask(named.bit);
  return bits;
}

// Where the "-NUMBER" at the end begins; npos if there is none.
size_t VersionAt(std::string_view name) {
  const size_t dash = name.rfind('-');
  if (dash == std::string_view::npos || dash == 0) return std::string_view::npos;
  const std::string_view number = name.substr(dash + 1);
  const bool is_number = !number.empty() && number.size() <= 9 && number[0] != '0' &&
                         std::all_of(number.begin(), number.end(), [](char c) { return absl::ascii_isdigit(c); });
  return is_number ? dash : std::string_view::npos;
}

std::optional<ContractFault> LimitFault(const char* field, uint16_t value, unsigned min, unsigned max) {
  if (value >= min && value <= max) return std::nullopt;
  return ContractFault{field, absl::StrCat(value, " is out of range; use ", min, " to ", max)};
}

std::optional<ContractFault> LimitsFault(const FeatureContract& contract, const FeatureContract& most,
                                         unsigned least_ring) {
  if (auto fault = LimitFault("max_mtu", contract.max_mtu, 68, most.max_mtu)) return fault;
  if (auto fault = LimitFault("max_queue_pairs", contract.max_queue_pairs, 1, most.max_queue_pairs)) return fault;
  return LimitFault("max_ring_size", contract.max_ring_size, least_ring, most.max_ring_size);
}

}  // namespace

absl::StatusOr<FeatureContract> FindContract(std::string_view name) {
  return BuiltInContracts().Find(name);
}

std::vector<std::string> ContractNames() {
  return BuiltInContracts().Names();
}

const ContractSet& BuiltInContracts() {
  static const ContractSet set;
  return set;
}

ContractSet::ContractSet(std::vector<FeatureContract> own) : all_(Contracts().begin(), Contracts().end()) {
  std::move(own.begin(), own.end(), std::back_inserter(all_));
}

absl::StatusOr<FeatureContract> ContractSet::Find(std::string_view name) const {
  for (const FeatureContract& contract : all_) {
    if (contract.name == name) return contract;
  }
  return absl::NotFoundError(
      absl::StrCat("\"", std::string(name), "\" is not a feature contract; use one of ", absl::StrJoin(Names(), ", ")));
}

std::vector<std::string> ContractSet::Names() const {
  std::vector<std::string> names;
  for (const FeatureContract& contract : all_) names.push_back(contract.name);
  return names;
}

bool ValidContractName(std::string_view name) {
  return name.size() <= 63 && VersionAt(name) != std::string_view::npos && absl::ascii_isalnum(name[0]) &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '-'; });
}

bool ReservedContractName(std::string_view name) {
  const size_t dash = VersionAt(name);
  const std::string_view family = name.substr(0, dash);
  return dash != std::string_view::npos &&
         std::any_of(Contracts().begin(), Contracts().end(), [&](const FeatureContract& contract) {
           return family == std::string_view(contract.name).substr(0, VersionAt(contract.name));
         });
}

bool IsBuiltInContract(std::string_view name) {
  return std::any_of(Contracts().begin(), Contracts().end(),
                     [&](const FeatureContract& contract) { return contract.name == name; });
}

FeatureContract WithPostcopy(FeatureContract contract, bool postcopy) {
  if (postcopy) contract.protocol_features |= Mask(kContractProtocolPagefault);
  return contract;
}

uint64_t MandatoryFeatures() {
  return kCommon;
}

std::optional<ContractFault> FindContractFault(const FeatureContract& contract) {
  if (!ValidContractName(contract.name))
    return ContractFault{"name",
                         "is not a contract's name; use letters, digits, '_', '.' and '-', at most 63, with the "
                         "version as -NUMBER at the end, for example mine-1"};
  if (const uint64_t unknown = contract.features & ~AllOf(kNamedBits))
    return ContractFault{"features", absl::StrCat(absl::StrJoin(FeatureNames(unknown), ", "),
                                                  " is unknown to this version; upgrade everport")};
  if (const uint64_t unknown = contract.protocol_features & ~AllOf(kNamedProtocolBits))
    return ContractFault{"protocol_features", absl::StrCat(absl::StrJoin(ProtocolFeatureNames(unknown), ", "),
                                                           " is unknown to this version; upgrade everport")};
  for (const auto& [feature, needed] : kDependencies) {
    if ((contract.features & Mask(feature)) && !(contract.features & Mask(needed)))
      return ContractFault{"features", absl::StrCat(FeatureName(feature), " needs ", FeatureName(needed),
                                                    ", which is not offered; take both out, or neither")};
  }
  constexpr uint16_t kAny = 0xffff;
  const FeatureContract most{"", 0, 0, kAny, 0x8000, kMaxRingSize};  // virtio 1.2, 5.1.4
  if (auto fault = LimitsFault(contract, most, 1)) return fault;
  if (contract.max_queue_pairs > 1 && !(contract.features & Mask(kNetMq)))
    return ContractFault{"max_queue_pairs", absl::StrCat(contract.max_queue_pairs, " needs ", FeatureName(kNetMq),
                                                         ", which is not offered; use 1")};
  return std::nullopt;
}

std::optional<ContractFault> FindProfileFault(const FeatureContract& contract) {
  if (ReservedContractName(contract.name))
    return ContractFault{"name",
                         "is everport's own, or that of a later version; give the profile another name, for "
                         "example mine-1"};
  if (const uint64_t missing = kCommon & ~contract.features)
    return ContractFault{"features", absl::StrCat("lacks ", absl::StrJoin(FeatureNames(missing), ", "),
                                                  ", without which everport serves and migrates no guest")};
  if (const uint64_t missing = kProtocolFeatures & ~contract.protocol_features)
    return ContractFault{"protocol_features", absl::StrCat("lacks ", absl::StrJoin(ProtocolFeatureNames(missing), ", "),
                                                           ", which every contract has")};
  return LimitsFault(contract, Contracts()[0], kLeastRingSize);
}

std::string FeatureName(unsigned bit) {
  return NameIn(kNamedBits, bit);
}

std::vector<std::string> FeatureNames(uint64_t features) {
  return NamesIn(kNamedBits, features);
}

std::optional<unsigned> FeatureBit(std::string_view name) {
  return BitIn(kNamedBits, name);
}

std::string ProtocolFeatureName(unsigned bit) {
  return NameIn(kNamedProtocolBits, bit);
}

std::vector<std::string> ProtocolFeatureNames(uint64_t features) {
  return NamesIn(kNamedProtocolBits, features);
}

std::optional<unsigned> ProtocolFeatureBit(std::string_view name) {
  return BitIn(kNamedProtocolBits, name);
}

}  // namespace everport
