// ParseConfig and PortFromJson on arbitrary bytes. The first byte chooses: 'J' a JSON port, anything else TOML (of
// which it is part). Besides not crashing:
//   - what is accepted passes the checks again unchanged, and survives the way through JSON;
//   - what is refused says why, in valid characters: a port in one line, a file in one line for each fault.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "backend/config/config.h"

namespace everport {
namespace {

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "property does not hold: %s\n", what);
  std::abort();
}

void RequireGoodMessage(const absl::Status& status, bool lines) {
  Require(!status.message().empty(), "a refusal says why");
  for (const char c : status.message()) {
    Require((static_cast<unsigned char>(c) >= 0x20 && c != 0x7f) || (c == '\n' && lines),
            "a refusal has no control characters, and one line for each fault");
  }
}

void RequireStable(const PortConfig& port, const ContractSet& contracts) {
  PortConfig again = port;
  Require(CheckPort(again, "port", contracts).ok() && again == port, "an accepted port passes the checks unchanged");
  const auto back = PortFromJson(PortToJson(port), &contracts);
  Require(back.ok() && *back == port, "PortFromJson(PortToJson(port)) == port");
}

void FuzzJson(std::string_view input) {
  const auto port = PortFromJson(input);
  if (!port.ok()) return RequireGoodMessage(port.status(), false);
  RequireStable(*port, BuiltInContracts());
}

void FuzzToml(std::string_view input) {
  const auto config = ParseConfig(input, "fuzz.toml");
  if (!config.ok()) return RequireGoodMessage(config.status(), true);
  for (const PortConfig& port : config->ports) RequireStable(port, config->contracts);
  for (size_t i = BuiltInContracts().all().size(); i < config->contracts.all().size(); ++i) {
    const FeatureContract& own = config->contracts.all()[i];
    Require(!FindContractFault(own) && !FindProfileFault(own), "an accepted profile keeps the rules of profiles");
  }
  Require(CheckPorts(config->ports).ok(), "accepted ports pass the checks among each other");
  Require(DiffPorts(config->ports, config->ports) == PortDiff{}, "ports do not differ from themselves");
}

}  // namespace
}  // namespace everport

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  if (!input.empty() && input.front() == 'J') {
    everport::FuzzJson(input.substr(1));
  } else {
    everport::FuzzToml(input);
  }
  return 0;
}
