#pragma once

// A contract as a document that hosts and files exchange, and what a guest's port needs of one. Documents come from
// strangers: what is read here has been checked field by field, and errors name the field, the cause and the mend.
// Pure; any thread.
//
//   {"format": 1, "name": "everport-1",
//    "features": ["VIRTIO_NET_F_CSUM", …], "protocol_features": ["MQ", …],
//    "max_mtu": 9216, "max_queue_pairs": 16, "max_ring_size": 32768,
//    "ring_layouts": ["split", "packed"],      what VIRTIO_F_RING_PACKED says, in words
//    "announce": ["guest", "rarp"]}            likewise of VIRTIO_NET_F_GUEST_ANNOUNCE and the protocol's RARP

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "migration/feature_contract.h"

namespace everport {

// Of this everport's documents. A reader takes its own format alone: a field that it does not know may be the one that
// breaks the guest.
inline constexpr uint64_t kContractFormat = 1;

boost::json::object ContractToJson(const FeatureContract& contract);
// path: what stands before the fields' names in errors ("document"); may be empty.
absl::StatusOr<FeatureContract> ContractFromJson(const boost::json::value& value, const std::string& path);
// A document by itself; errors begin with `what` ("against.json").
absl::StatusOr<FeatureContract> ParseContract(std::string_view text, const std::string& what);

// What a port has that a guest came to rely on: what any other host must cover. A value.
struct GuestNeeds {
  uint16_t mtu = 1500;  // bytes, of the port
  uint16_t queue_pairs = 1;
  // Negotiated; nullopt: the guest's driver has not started, and may yet take all that is offered.
  std::optional<uint64_t> features = std::nullopt;
  uint16_t ring_size = 0;  // descriptors, of its largest ring; 0: not known
  bool operator==(const GuestNeeds&) const = default;
};
// {"mtu": 1500, "queue_pairs": 1, "features": ["VIRTIO_F_VERSION_1", …] or null, "ring_layout": "packed" or null,
//  "ring_size": 256 or null}; ring_layout is what the features say, in a word.
boost::json::object NeedsToJson(const GuestNeeds& needs);
absl::StatusOr<GuestNeeds> NeedsFromJson(const boost::json::value& value, const std::string& path);

// The body of POST /v1/contract/check, in one of two forms:
//   {"port": "vm1-net0", "against": DOCUMENT}    where the guest is: would it lose anything under that contract?
//   {"document": DOCUMENT, "needs": NEEDS}       where it may go: would it lose anything here? (asked by its host)
struct ContractCheckRequest {
  std::string port;  // empty: the second form
  FeatureContract contract;
  GuestNeeds needs;  // of the second form
};
absl::StatusOr<ContractCheckRequest> ParseContractCheck(std::string_view body);
std::string ContractCheckBody(const boost::json::value& document, const boost::json::value& needs);

}  // namespace everport
