#include "backend/cli/libvirt_xml.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "backend/cli/format.h"

namespace everport::cli {
namespace {

std::string Escape(const std::string& text) {
  return absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"'", "&apos;"}});
}

// The contract says whether the port offers packed rings; a guest whose driver has none uses split ones all the same.
bool OffersPacked(const boost::json::value& contract) {
  const auto* const layouts = contract.is_object() ? contract.get_object().if_contains("ring_layouts") : nullptr;
  return layouts && layouts->is_array() &&
         std::any_of(layouts->get_array().begin(), layouts->get_array().end(),
                     [](const boost::json::value& layout) { return layout == "packed"; });
}

// A vDPA device serves split rings alone: a guest with packed ones would never get it.
bool WantsSplitRings(const boost::json::value& port) {
  const auto* const uplinks = port.as_object().if_contains("uplinks");
  if (!uplinks || !uplinks->is_array()) return false;
  return std::any_of(uplinks->as_array().begin(), uplinks->as_array().end(), [](const boost::json::value& uplink) {
    const std::string kind = Text(uplink, "/kind");
    return kind == "vhost-vdpa" || kind == "vdpa";
  });
}

}  // namespace

std::string LibvirtXml(const boost::json::value& port, const boost::json::value& contract) {
  const bool packs = OffersPacked(contract) && !WantsSplitRings(port);
  const std::string packed = packs ? " packed='on'" : "";
  return absl::StrCat(
      "<!-- Directly below <domain>: the daemon must reach the guest's memory. Keep other hugepages/nosharepages "
      "settings. -->\n"
      "<memoryBacking>\n"
      "  <source type='memfd'/>\n"
      "  <access mode='shared'/>\n"
      "</memoryBacking>\n"
      "\n"
      "<!-- Below <devices>: port ",
      Escape(Text(port, "/name")),
      ". -->\n"
      "<interface type='vhostuser'>\n"
      "  <mac address='",
      Escape(Text(port, "/mac")),
      "'/>\n"
      "  <source type='unix' path='",
      Escape(Text(port, "/socket")),
      "' mode='server'/>\n"
      "  <model type='virtio'/>\n"
      "  <driver queues='",
      Text(port, "/queue_pairs"), "' rx_queue_size='1024' tx_queue_size='1024'", packed,
      "/>\n"
      "  <mtu size='",
      Text(port, "/mtu"),
      "'/>\n"
      "</interface>\n");
}

}  // namespace everport::cli
