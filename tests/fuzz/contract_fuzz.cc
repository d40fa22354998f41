// Contract documents and check requests as strangers send them. The first byte chooses: 'R' the body of a check
// request, anything else a document (of which it is part). Besides not crashing:
//   - what is accepted keeps every rule, comes back through its own document unchanged, and does not differ from
//   itself;
//   - comparing what is accepted with what we have always says why, in one line, and 'breaks' is what the verdict says;
//   - what is refused says why, in one line of limited length.
#include <boost/json/serialize.hpp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "migration/contract_comparison.h"
#include "migration/contract_document.h"

namespace everport {
namespace {

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "property does not hold: %s\n", what);
  std::abort();
}

void RequireOneLine(std::string_view text, const char* what) {
  Require(!text.empty() && text.size() < 4096, what);
  for (const char c : text) Require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f, what);
}

void RequireGood(const FeatureContract& contract) {
  Require(!FindContractFault(contract), "an accepted contract keeps every rule");
  const auto back = ParseContract(boost::json::serialize(ContractToJson(contract)), "back");
  Require(back.ok() && *back == contract, "an accepted contract comes back through its own document");
  Require(CompareContracts(contract, {.mtu = 68}, contract).empty(), "a contract does not differ from itself");
}

void RequireSaid(const std::vector<ContractFinding>& findings) {
  for (const ContractFinding& finding : findings) {
    RequireOneLine(finding.field, "a finding names its field");
    RequireOneLine(finding.here, "a finding says what is here");
    RequireOneLine(finding.there, "a finding says what is there");
    RequireOneLine(finding.why, "a finding says why");
    Require(!finding.breaks || !finding.mend.empty(), "what breaks has a mend");
  }
  Require(ContractVerdict("x-1", findings).at("compatible").as_bool() == Compatible(findings), "the verdict agrees");
}

void Compare(const FeatureContract& contract, const GuestNeeds& needs) {
  for (const FeatureContract& ours : BuiltInContracts().all()) {
    RequireSaid(CompareContracts(contract, needs, ours));
    RequireSaid(CompareContracts(ours, needs, contract));
    FeatureContract same_name = ours;
    same_name.name = contract.name;
    RequireSaid(CompareContracts(contract, needs, same_name));
  }
}

void FuzzDocument(std::string_view input) {
  const auto contract = ParseContract(input, "fuzz");
  if (!contract.ok()) {
    const auto said = contract.status().message();
    return RequireOneLine({said.data(), said.size()}, "a refusal says why, in one line");
  }
  RequireGood(*contract);
  Compare(*contract, {});
}

void FuzzRequest(std::string_view input) {
  const auto request = ParseContractCheck(input);
  if (!request.ok()) {
    const auto said = request.status().message();
    return RequireOneLine({said.data(), said.size()}, "a refusal says why, in one line");
  }
  RequireGood(request->contract);
  const auto needs = NeedsFromJson(NeedsToJson(request->needs), "needs");
  Require(needs.ok() && *needs == request->needs, "accepted needs come back");
  Compare(request->contract, request->needs);
}

}  // namespace
}  // namespace everport

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  if (!input.empty() && input.front() == 'R') {
    everport::FuzzRequest(input.substr(1));
  } else {
    everport::FuzzDocument(input);
  }
  return 0;
}
