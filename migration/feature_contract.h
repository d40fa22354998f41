#pragma once

// A feature contract: what a guest's NIC is, by name and version, whatever hardware is behind it. The front-end is
// offered what the contract says and nothing else, so ports of one contract are interchangeable between hosts.
// Pure values and functions; any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace everport {

// Feature bit numbers that everport knows. Virtio 1.2: 5.1.3 (net), 6 (reserved); vhost: linux/vhost.h, vhost-user
// spec.
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
  std::string name;                // "everport-1": name and version in one; a published one never changes
  uint64_t features = 0;           // answer to GET_FEATURES
  uint64_t protocol_features = 0;  // answer to GET_PROTOCOL_FEATURES, bits of vhost_user::ProtocolFeature
  uint16_t max_mtu = 0;            // bytes
  uint16_t max_queue_pairs = 0;
  uint16_t max_ring_size = 0;  // descriptors

  bool operator==(const FeatureContract&) const = default;
};

// The built-in contract of that name, or NotFound naming those there are.
absl::StatusOr<FeatureContract> FindContract(std::string_view name);
std::vector<std::string> ContractNames();  // of the built-in ones

// The contracts that a host knows: the built-in ones, then those of its configuration.
class ContractSet {
 public:
  ContractSet() : ContractSet(std::vector<FeatureContract>{}) {}
  // own: each passes FindContractFault and FindProfileFault, and none has the name of another.
  explicit ContractSet(std::vector<FeatureContract> own);
  // NotFound names those there are.
  absl::StatusOr<FeatureContract> Find(std::string_view name) const;
  const std::vector<FeatureContract>& all() const { return all_; }
  std::vector<std::string> Names() const;
  bool operator==(const ContractSet&) const = default;

 private:
  std::vector<FeatureContract> all_;
};
const ContractSet& BuiltInContracts();

// Name and version in one: letters, digits, '_', '.' and '-', at most 63, beginning with a letter or digit, ending in
// "-NUMBER" (no leading zero).
bool ValidContractName(std::string_view name);
// "everport-7", "minimal-2": a built-in one's name or one that a later version may give to its own.
bool ReservedContractName(std::string_view name);
bool IsBuiltInContract(std::string_view name);

// What no contract of ours goes without: the ring format and header that everport writes, and what migration needs.
uint64_t MandatoryFeatures();

// What is wrong with a contract: the field, and "cause; mend".
struct ContractFault {
  std::string field;
  std::string text;
};
// Whether a contract makes sense at all, whoever wrote it: name, known features only, which feature needs which (virtio
// 1.2, 5.1.3.1), limits that virtio allows.
std::optional<ContractFault> FindContractFault(const FeatureContract& contract);
// What is asked of an own profile besides: a name that is nobody else's, the mandatory features, and the limits that
// everport itself has.
std::optional<ContractFault> FindProfileFault(const FeatureContract& contract);

// "VIRTIO_NET_F_MRG_RXBUF", or "bit 63" for one that everport does not know.
std::string FeatureName(unsigned bit);
// The names of all set bits, lowest first.
std::vector<std::string> FeatureNames(uint64_t features);
std::optional<unsigned> FeatureBit(std::string_view name);

// Of VHOST_USER_PROTOCOL_F_…: "LOG_SHMFD".
std::string ProtocolFeatureName(unsigned bit);
std::vector<std::string> ProtocolFeatureNames(uint64_t features);
std::optional<unsigned> ProtocolFeatureBit(std::string_view name);

// Protocol features that the comparison of contracts looks at; bit numbers of the vhost-user specification.
inline constexpr unsigned kContractProtocolMq = 0;
inline constexpr unsigned kContractProtocolLogShmfd = 1;
inline constexpr unsigned kContractProtocolRarp = 2;
inline constexpr unsigned kContractProtocolPagefault = 8;

// What a port with `postcopy` offers: no contract has PAGEFAULT by itself, being a matter of QEMU and its host alone.
FeatureContract WithPostcopy(FeatureContract contract, bool postcopy);

}  // namespace everport
