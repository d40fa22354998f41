#include "migration/contract_comparison.h"

#include <algorithm>
#include <boost/json/array.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace everport {
namespace {

using Findings = std::vector<ContractFinding>;

bool Has(uint64_t bits, unsigned bit) {
  return bits >> bit & 1;
}

const char* Offered(bool offered) {
  return offered ? "offered" : "not offered";
}

// What one name stands for may not differ: nobody could tell from the name what a guest has.
ContractFinding SameNameDiffers(const FeatureContract& here, const FeatureContract& there) {
  const bool breaks = here.features != there.features;
  const bool ours = IsBuiltInContract(here.name);
  return {"name",
          here.name,
          there.name,
          breaks,
          absl::StrCat("contract ", here.name, " differs between the hosts",
                       breaks ? ", so its guests are not offered the same features" : ", though not in its features"),
          ours ? "it is built in: bring both hosts to one version of everport"
               : "make [[contract]] the same in both configurations, or give one of them a new name"};
}

void CompareName(const FeatureContract& here, const FeatureContract& there, Findings& findings) {
  if (here.name == there.name) {
    // PAGEFAULT is a port's, not the contract's.
    if (WithPostcopy(here, true) != WithPostcopy(there, true)) findings.push_back(SameNameDiffers(here, there));
    return;
  }
  findings.push_back({"name", here.name, there.name, false, "another contract, so it is compared field by field", ""});
}

ContractFinding LostFeature(unsigned bit, const GuestNeeds& needs, bool same_name) {
  const bool negotiated = needs.features && Has(*needs.features, bit);
  ContractFinding finding{absl::StrCat("features.", FeatureName(bit)),
                          negotiated ? "negotiated" : "offered",
                          "not offered",
                          true,
                          "",
                          absl::StrCat("offer ", FeatureName(bit), " there, or use a contract that both hosts have")};
  if (negotiated) {
    finding.why = "the guest uses it, so QEMU there refuses the guest's state as it arrives, and the migration fails";
  } else if (same_name) {
    finding.why =
        "one contract is to answer GET_FEATURES alike on every host, and a guest that restarts its driver "
        "would find another NIC";
  } else if (!needs.features) {
    finding.why = "the guest's driver has not started, and may take the feature before the guest has moved";
  } else {
    finding.breaks = false;
    finding.why = bit == kVhostLogAll ? "without it the guest cannot be migrated away from there"
                                      : "the guest does not use it, and is no longer offered it when its driver "
                                        "starts anew";
    finding.mend = "";
  }
  return finding;
}

ContractFinding GainedFeature(unsigned bit, bool same_name) {
  const std::string field = absl::StrCat("features.", FeatureName(bit));
  if (same_name) {
    return {field,
            "not offered",
            "offered",
            true,
            "one contract is to answer GET_FEATURES alike on every host, and a guest that takes the feature there "
            "cannot come back",
            absl::StrCat("take ", FeatureName(bit), " out there, or use a contract that both hosts have")};
  }
  return {field,
          "not offered",
          "offered",
          false,
          "the guest notices when its driver starts anew, and cannot come back if it takes the feature then",
          ""};
}

void CompareFeatures(const FeatureContract& here, const GuestNeeds& needs, const FeatureContract& there,
                     Findings& findings) {
  const bool same_name = here.name == there.name;
  for (unsigned bit = 0; bit < 64; ++bit) {
    if (Has(here.features, bit) == Has(there.features, bit)) continue;
    findings.push_back(Has(here.features, bit) ? LostFeature(bit, needs, same_name) : GainedFeature(bit, same_name));
  }
}

// QEMU there negotiates these anew with the back-end there; the guest has no part in it.
ContractFinding ProtocolFinding(unsigned bit, const GuestNeeds& needs, bool offered_here) {
  ContractFinding finding{absl::StrCat("protocol_features.", ProtocolFeatureName(bit)),
                          Offered(offered_here),
                          Offered(!offered_here),
                          false,
                          "QEMU and everport settle it anew there, and the guest does not see it",
                          ""};
  if (!offered_here) return finding;
  if (bit == kContractProtocolMq && needs.queue_pairs > 1) {
    finding.breaks = true;
    finding.why = absl::StrCat("QEMU there starts one queue pair at most, and the guest has ", needs.queue_pairs);
    finding.mend = "offer MQ there, or use a contract that both hosts have";
  } else if (bit == kContractProtocolLogShmfd) {
    finding.why = "without it the guest cannot be migrated away from there";
  } else if (bit == kContractProtocolPagefault) {
    finding.why =
        "unless its port there has postcopy = true, the guest cannot get there by post-copy; by pre-copy it can";
  }
  return finding;
}

void CompareProtocol(const FeatureContract& here, const GuestNeeds& needs, const FeatureContract& there,
                     Findings& findings) {
  for (unsigned bit = 0; bit < 64; ++bit) {
    if (Has(here.protocol_features, bit) != Has(there.protocol_features, bit))
      findings.push_back(ProtocolFinding(bit, needs, Has(here.protocol_features, bit)));
  }
}

// Whether anyone tells the switches where the guest is after the move.
void CompareAnnounce(const FeatureContract& here, const GuestNeeds& needs, const FeatureContract& there,
                     Findings& findings) {
  const auto ways = [&](const FeatureContract& contract) {
    std::vector<std::string> list;
    if (Has(needs.features.value_or(contract.features) & contract.features, kNetGuestAnnounce)) list.push_back("guest");
    if (Has(contract.protocol_features, kContractProtocolRarp)) list.push_back("rarp");
    return list;
  };
  const auto ways_here = ways(here), ways_there = ways(there);
  if (ways_here == ways_there || !ways_there.empty()) return;
  findings.push_back({"announce", absl::StrJoin(ways_here, ", "), "none", true,
                      "nobody tells the network that the guest has moved, so what is sent to it goes to the old host "
                      "until it sends something itself",
                      "offer RARP there, or use a contract that both hosts have"});
}

struct Limit {
  const char* field;
  unsigned here, there;
  unsigned used;        // 0: not known
  const char* what;     // "the port's MTU"
  const char* happens;  // what is too much there
};

void CompareLimit(const Limit& limit, Findings& findings) {
  if (limit.used > limit.there) {
    findings.push_back({limit.field, absl::StrCat(limit.here, ", used ", limit.used), absl::StrCat(limit.there), true,
                        absl::StrCat(limit.what, " is ", limit.used, ", and ", limit.happens),
                        absl::StrCat("raise ", limit.field, " there, or use a contract that both hosts have")});
    return;
  }
  if (limit.here == limit.there) return;
  const std::string used = limit.used > 0 ? absl::StrCat(limit.what, " is ", limit.used, ", which both cover")
                                          : absl::StrCat(limit.what, " is not known while its driver has not started");
  findings.push_back({limit.field, absl::StrCat(limit.here), absl::StrCat(limit.there), false, used, ""});
}

void CompareLimits(const FeatureContract& here, const GuestNeeds& needs, const FeatureContract& there,
                   Findings& findings) {
  CompareLimit({"max_mtu", here.max_mtu, there.max_mtu, needs.mtu, "the port's MTU",
                "no port with it can be made there: the guest's longer frames would be lost"},
               findings);
  CompareLimit({"max_queue_pairs", here.max_queue_pairs, there.max_queue_pairs, needs.queue_pairs,
                "the port's number of queue pairs",
                "no port with so many can be made there: QEMU there would not start its NIC"},
               findings);
  CompareLimit({"max_ring_size", here.max_ring_size, there.max_ring_size, needs.ring_size, "the guest's largest ring",
                "the keeper there refuses rings of that size: the guest would have no network"},
               findings);
}

}  // namespace

std::vector<ContractFinding> CompareContracts(const FeatureContract& here, const GuestNeeds& needs,
                                              const FeatureContract& there) {
  Findings findings;
  CompareName(here, there, findings);
  CompareFeatures(here, needs, there, findings);
  CompareProtocol(here, needs, there, findings);
  CompareAnnounce(here, needs, there, findings);
  CompareLimits(here, needs, there, findings);
  return findings;
}

ContractFinding MissingContract(const std::string& name, const std::vector<std::string>& there) {
  return {"name",
          name,
          "unknown",
          true,
          absl::StrCat("no port of contract ", name, " can be made there: the contracts known there are ",
                       absl::StrJoin(there, ", ")),
          IsBuiltInContract(name)
              ? "upgrade everport there"
              : absl::StrCat("add the [[contract]] ", name, " to the configuration there and reload")};
}

bool Compatible(const std::vector<ContractFinding>& findings) {
  return std::none_of(findings.begin(), findings.end(), [](const ContractFinding& f) { return f.breaks; });
}

boost::json::object ContractVerdict(const std::string& contract, const std::vector<ContractFinding>& findings) {
  boost::json::array list;
  for (const ContractFinding& f : findings) {
    list.push_back(boost::json::object{{"field", f.field},
                                       {"here", f.here},
                                       {"there", f.there},
                                       {"breaks", f.breaks},
                                       {"why", f.why},
                                       {"mend", f.mend}});
  }
  return {{"compatible", Compatible(findings)}, {"contract", contract}, {"findings", std::move(list)}};
}

}  // namespace everport
