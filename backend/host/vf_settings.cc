#include "backend/host/vf_settings.h"

#include <linux/if_link.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "backend/host/netlink.h"

namespace everport {

absl::StatusOr<VfSettings> ReadVfSettings(const std::string& pf_interface, int vf_index) {
  const auto answer = netlink::GetLink(pf_interface, RTEXT_FILTER_VF | RTEXT_FILTER_SKIP_STATS);
  if (!answer.ok()) return answer.status();
  VfSettings settings;
  bool found = false;
  const auto read_vf = [&](const std::vector<netlink::Attribute>& vf) {
    const auto* mac = netlink::Find(vf, IFLA_VF_MAC);
    const auto* value = mac ? mac->as<ifla_vf_mac>() : nullptr;
    if (!value || static_cast<int>(value->vf) != vf_index) return;
    found = true;
    std::copy_n(value->mac, settings.mac.size(), settings.mac.begin());
    const auto* trust = netlink::Find(vf, IFLA_VF_TRUST);
    const auto* trusted = trust ? trust->as<ifla_vf_trust>() : nullptr;
    settings.trusted = trusted && trusted->setting == 1;
  };
  netlink::ForEachMessage(answer->data(), answer->size(), [&](const nlmsghdr& message) {
    for (const auto& list : netlink::LinkAttributes(message)) {
      if (list.type != IFLA_VFINFO_LIST) continue;
      for (const auto& vf : netlink::Attributes(list.data, list.size)) {
        if (vf.type == IFLA_VF_INFO) read_vf(netlink::Attributes(vf.data, vf.size));
      }
    }
  });
  if (found) return settings;
  return absl::NotFoundError(absl::StrCat(pf_interface, " has no VF ", vf_index));
}

}  // namespace everport
