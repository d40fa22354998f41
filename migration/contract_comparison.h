#pragma once

// What a guest would lose by moving from one contract to another. Pure; any thread.

#include <boost/json/object.hpp>
#include <string>
#include <vector>

#include "migration/contract_document.h"
#include "migration/feature_contract.h"

namespace everport {

// One field in which the two sides differ.
struct ContractFinding {
  std::string field;  // "features.VIRTIO_NET_F_MQ", "max_mtu"
  std::string here;   // where the guest is: "negotiated", "offered", "9216"
  std::string there;  // where it would go
  bool breaks = false;
  std::string why;   // one sentence: what would break for the guest, or why nothing does
  std::string mend;  // empty where nothing is to be done
  bool operator==(const ContractFinding&) const = default;
};

// Empty if the two are the same and cover the guest. A difference breaks what the guest has:
//  - of features, if it has negotiated one that is not offered there (QEMU there refuses the guest's state), or may yet
//    do so; and whenever both contracts have one name, which stands for bit-identical GET_FEATURES;
//  - of a limit, if the port or its rings exceed the one there (the port cannot be made, or the keeper refuses the
//    rings); otherwise it is noted.
std::vector<ContractFinding> CompareContracts(const FeatureContract& here, const GuestNeeds& needs,
                                              const FeatureContract& there);
// There is no contract of that name there.
ContractFinding MissingContract(const std::string& name, const std::vector<std::string>& there);

bool Compatible(const std::vector<ContractFinding>& findings);
// {"compatible": …, "contract": NAME, "findings": [{field, here, there, breaks, why, mend}…]}
boost::json::object ContractVerdict(const std::string& contract, const std::vector<ContractFinding>& findings);

}  // namespace everport
