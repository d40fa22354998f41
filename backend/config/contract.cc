// Own profiles: [[contract]] tables, each a built-in contract with something taken away.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backend/config/reader.h"
#include "migration/feature_contract.h"

namespace everport::config {
namespace {

// What the profile begins with; everport-1 also where the key is at fault.
FeatureContract ReadBase(const Table& table) {
  std::string name = ContractNames().front();
  table.Read("base", name);
  const auto base = FindContract(name);
  if (base.ok()) return *base;
  table.source().Fail(table.PathOf("base"), absl::StrCat(Quote(name), " is not a built-in contract; use one of ",
                                                         absl::StrJoin(ContractNames(), ", ")));
  return BuiltInContracts().all().front();
}

std::string WithoutFault(const std::string& name, uint64_t taken, const FeatureContract& base) {
  const auto bit = FeatureBit(name);
  if (!bit) {
    const std::vector<std::string> offered = FeatureNames(base.features & ~MandatoryFeatures());
    return absl::StrCat(Quote(name), " is not a feature; ", base.name, " offers ",
                        offered.empty() ? "none that can be taken out" : absl::StrJoin(offered, ", "));
  }
  if (MandatoryFeatures() >> *bit & 1)
    return absl::StrCat(name, " cannot be taken out: everport serves and migrates no guest without it; remove it here");
  if (!(base.features >> *bit & 1)) return absl::StrCat(name, " is not offered by ", base.name, "; remove it here");
  if (taken >> *bit & 1) return absl::StrCat(name, " is listed twice; remove one of them");
  return "";
}

uint64_t ReadWithout(const Table& table, const FeatureContract& base) {
  uint64_t taken = 0;
  size_t index = 0;
  for (const std::string& name : table.Strings("without")) {
    const std::string path = Join(table.PathOf("without"), index++);
    if (table.source().Failed(path)) continue;
    if (const std::string fault = WithoutFault(name, taken, base); !fault.empty()) {
      table.source().Fail(path, fault);
    } else {
      taken |= uint64_t{1} << *FeatureBit(name);
    }
  }
  return taken;
}

// The rules that a profile keeps as a whole, at the key that the operator would change.
void CheckProfile(const Table& table, const FeatureContract& profile) {
  for (const auto& fault : {FindContractFault(profile), FindProfileFault(profile)}) {
    if (!fault) continue;
    const std::string key = fault->field == "features" ? "without" : fault->field;
    if (key == "name" && !table.Has("name")) {
      return table.source().Fail(table.PathOf(key), "is missing; give the profile a name, for example mine-1");
    }
    return table.source().Fail(table.PathOf(key),
                               key == "name" ? absl::StrCat(Quote(profile.name), " ", fault->text) : fault->text);
  }
}

FeatureContract ReadProfile(const Table& table) {
  table.AllowOnly({"name", "base", "without", "max_mtu", "max_queue_pairs", "max_ring_size"});
  FeatureContract profile = ReadBase(table);
  const FeatureContract base = profile;
  profile.name.clear();
  table.Read("name", profile.name);
  profile.features &= ~ReadWithout(table, base);
  if (!(profile.features >> kNetMq & 1)) profile.max_queue_pairs = 1;
  table.Read("max_mtu", profile.max_mtu, {kMtu.min, base.max_mtu});
  table.Read("max_queue_pairs", profile.max_queue_pairs, {kQueuePairs.min, base.max_queue_pairs});
  table.Read("max_ring_size", profile.max_ring_size, {uint16_t{256}, base.max_ring_size});
  if (table.source().Failed(table.PathOf("without"))) profile.features = base.features;  // its fault is known
  CheckProfile(table, profile);
  return profile;
}

}  // namespace

ContractSet ReadContracts(const Table& root) {
  std::vector<FeatureContract> own;
  size_t index = 0;
  for (const auto* object : root.TablesAt("contract", "[[contract]]")) {
    const std::string path = Join("contract", index++);
    if (!object) continue;
    const Table table(root.source(), *object, path);
    FeatureContract profile = ReadProfile(table);
    const auto same = [&](const FeatureContract& other) { return other.name == profile.name; };
    if (std::any_of(own.begin(), own.end(), same)) {
      root.source().Fail(table.PathOf("name"), absl::StrCat(Quote(profile.name),
                                                            " is already the name of another [[contract]]; give one of "
                                                            "them another"));
    }
    if (!root.source().Failed(path)) own.push_back(std::move(profile));
  }
  return ContractSet(std::move(own));
}

}  // namespace everport::config
