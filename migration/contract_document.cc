#include "migration/contract_document.h"

#include <boost/json/serialize.hpp>
#include <boost/json/value_from.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "migration/strict_json.h"

namespace everport {
namespace {

namespace json = boost::json;

constexpr uint64_t kU16 = 0xffff;

std::vector<std::string> RingLayouts(uint64_t features) {
  std::vector<std::string> layouts = {"split"};
  if (features >> kRingPacked & 1) layouts.push_back("packed");
  return layouts;
}

std::vector<std::string> Announce(const FeatureContract& contract) {
  std::vector<std::string> ways;
  if (contract.features >> kNetGuestAnnounce & 1) ways.push_back("guest");
  if (contract.protocol_features >> kContractProtocolRarp & 1) ways.push_back("rarp");
  return ways;
}

// The bits of a list of names.
uint64_t ReadBits(JsonFields& fields, const char* key, std::optional<unsigned> (*bit_of)(std::string_view)) {
  uint64_t bits = 0;
  size_t index = 0;
  for (const std::string& name : fields.Strings(key)) {
    const std::string at = absl::StrCat(key, "[", index++, "]");
    const std::optional<unsigned> bit = bit_of(name);
    if (!bit) {
      fields.Fail(at, absl::StrCat(QuoteUntrusted(name),
                                   " is not a feature that this version knows; upgrade everport, or correct the name"));
    } else if (bits >> *bit & 1) {
      fields.Fail(at, absl::StrCat(name, " is listed twice; take one of them out"));
    } else {
      bits |= uint64_t{1} << *bit;
    }
  }
  return bits;
}

// What only says in other words what the features say.
void ReadDerived(JsonFields& fields, const char* key, const std::vector<std::string>& derived) {
  const std::vector<std::string> found = fields.Strings(key);
  if (found == derived) return;
  fields.Fail(key, absl::StrCat("says otherwise than the features, which make it [", absl::StrJoin(derived, ", "),
                                "]; correct one of the two"));
}

// Before anything else is looked at: another format may have other fields.
void ReadFormat(JsonFields& fields) {
  const uint64_t format = fields.Number("format", 0, UINT64_MAX);
  if (!fields.status().ok() || format == kContractFormat) return;
  fields.Fail(
      "format",
      absl::StrCat("the document has format ", format, " and this everport reads format ", kContractFormat, "; ",
                   format > kContractFormat ? "upgrade everport on this host"
                                            : "write the document anew with the everport that is on its host now"));
}

void Check(JsonFields& fields, const FeatureContract& contract) {
  if (!fields.status().ok()) return;
  if (const auto fault = FindContractFault(contract)) {
    const std::string name = fault->field == "name" ? QuoteUntrusted(contract.name) + " " : "";
    fields.Fail(fault->field, name + fault->text);
  }
}

json::value OrNull(bool known, json::value value) {
  return known ? std::move(value) : json::value(nullptr);
}

const char* LayoutOf(uint64_t features) {
  return features >> kRingPacked & 1 ? "packed" : "split";
}

// A guest cannot have negotiated what it was not offered.
absl::Status CheckNeeds(const FeatureContract& document, const GuestNeeds& needs) {
  const auto beyond = [&](const char* field, unsigned value, const char* limit, unsigned most) {
    return absl::InvalidArgumentError(absl::StrCat("needs.", field, ": ", value, " is more than document.", limit, ", ",
                                                   most, "; give the document of the guest's own contract"));
  };
  const uint64_t extra = needs.features.value_or(0) & ~document.features;
  if (extra) {
    return absl::InvalidArgumentError(absl::StrCat("needs.features: ", absl::StrJoin(FeatureNames(extra), ", "),
                                                   " is not offered by the document; give the document of the guest's "
                                                   "own contract"));
  }
  if (needs.mtu > document.max_mtu) return beyond("mtu", needs.mtu, "max_mtu", document.max_mtu);
  if (needs.queue_pairs > document.max_queue_pairs)
    return beyond("queue_pairs", needs.queue_pairs, "max_queue_pairs", document.max_queue_pairs);
  if (needs.ring_size > document.max_ring_size)
    return beyond("ring_size", needs.ring_size, "max_ring_size", document.max_ring_size);
  return absl::OkStatus();
}

}  // namespace

json::object ContractToJson(const FeatureContract& contract) {
  return {{"format", kContractFormat},
          {"name", contract.name},
          {"features", json::value_from(FeatureNames(contract.features))},
          {"protocol_features", json::value_from(ProtocolFeatureNames(contract.protocol_features))},
          {"max_mtu", contract.max_mtu},
          {"max_queue_pairs", contract.max_queue_pairs},
          {"max_ring_size", contract.max_ring_size},
          {"ring_layouts", json::value_from(RingLayouts(contract.features))},
          {"announce", json::value_from(Announce(contract))}};
}

absl::StatusOr<FeatureContract> ContractFromJson(const json::value& value, const std::string& path) {
  JsonFields fields(value, path);
  ReadFormat(fields);
  if (!fields.status().ok()) return fields.status();
  fields.AllowOnly({"format", "name", "features", "protocol_features", "max_mtu", "max_queue_pairs", "max_ring_size",
                    "ring_layouts", "announce"});
  FeatureContract contract;
  contract.name = fields.String("name");
  contract.features = ReadBits(fields, "features", FeatureBit);
  contract.protocol_features = ReadBits(fields, "protocol_features", ProtocolFeatureBit);
  contract.max_mtu = static_cast<uint16_t>(fields.Number("max_mtu", 0, kU16));
  contract.max_queue_pairs = static_cast<uint16_t>(fields.Number("max_queue_pairs", 0, kU16));
  contract.max_ring_size = static_cast<uint16_t>(fields.Number("max_ring_size", 0, kU16));
  ReadDerived(fields, "ring_layouts", RingLayouts(contract.features));
  ReadDerived(fields, "announce", Announce(contract));
  Check(fields, contract);
  if (!fields.status().ok()) return fields.status();
  return contract;
}

absl::StatusOr<FeatureContract> ParseContract(std::string_view text, const std::string& what) {
  const auto value = ParseStrictJson(text);
  auto contract = value.ok() ? ContractFromJson(*value, "") : value.status();
  if (contract.ok()) return contract;
  return absl::InvalidArgumentError(absl::StrCat(what, ": ", contract.status().message()));
}

json::object NeedsToJson(const GuestNeeds& needs) {
  const uint64_t features = needs.features.value_or(0);
  return {{"mtu", needs.mtu},
          {"queue_pairs", needs.queue_pairs},
          {"features", OrNull(needs.features.has_value(), json::value_from(FeatureNames(features)))},
          {"ring_layout", OrNull(needs.features.has_value(), LayoutOf(features))},
          {"ring_size", OrNull(needs.ring_size > 0, needs.ring_size)}};
}

absl::StatusOr<GuestNeeds> NeedsFromJson(const json::value& value, const std::string& path) {
  JsonFields fields(value, path);
  fields.AllowOnly({"mtu", "queue_pairs", "features", "ring_layout", "ring_size"});
  GuestNeeds needs;
  needs.mtu = static_cast<uint16_t>(fields.Number("mtu", 68, kU16));
  needs.queue_pairs = static_cast<uint16_t>(fields.Number("queue_pairs", 1, kU16));
  if (fields.Has("features")) needs.features = ReadBits(fields, "features", FeatureBit);
  if (fields.Has("ring_size")) needs.ring_size = static_cast<uint16_t>(fields.Number("ring_size", 1, kU16));
  if (fields.Has("ring_layout")) {
    const std::string layout = fields.String("ring_layout");
    if (!needs.features || layout != LayoutOf(*needs.features))
      fields.Fail("ring_layout", absl::StrCat(QuoteUntrusted(layout), " is not what features say; leave it out"));
  }
  if (!fields.status().ok()) return fields.status();
  return needs;
}

absl::StatusOr<ContractCheckRequest> ParseContractCheck(std::string_view body) {
  constexpr char kForms[] = "write {\"port\": …, \"against\": …} or {\"document\": …, \"needs\": …}";
  const auto value = ParseStrictJson(body);
  if (!value.ok()) return value.status();
  JsonFields fields(*value, "");
  fields.AllowOnly({"port", "against", "document", "needs"});
  const bool by_port = fields.Has("port") || fields.Has("against");
  if (fields.status().ok() && by_port == (fields.Has("document") || fields.Has("needs")))
    return absl::InvalidArgumentError(absl::StrCat("the body has neither form, or both; ", kForms));
  ContractCheckRequest request;
  if (by_port) request.port = fields.String("port");
  if (by_port && request.port.empty()) fields.Fail("port", "is empty; name a port");
  const char* const document = by_port ? "against" : "document";
  const json::value& contract_value = fields.Value(document);
  const json::value* const needs_value = by_port ? nullptr : &fields.Value("needs");
  if (!fields.status().ok()) return fields.status();
  auto contract = ContractFromJson(contract_value, document);
  if (!contract.ok()) return contract.status();
  request.contract = *std::move(contract);
  if (!needs_value) return request;
  const auto needs = NeedsFromJson(*needs_value, "needs");
  if (!needs.ok()) return needs.status();
  request.needs = *needs;
  if (absl::Status status = CheckNeeds(request.contract, request.needs); !status.ok()) return status;
  return request;
}

std::string ContractCheckBody(const json::value& document, const json::value& needs) {
  return json::serialize(json::object{{"document", document}, {"needs", needs}});
}

}  // namespace everport
