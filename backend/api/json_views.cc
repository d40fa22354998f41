#include "backend/api/json_views.h"

#include <boost/json/array.hpp>
#include <boost/json/value_from.hpp>

#include "absl/strings/str_cat.h"

namespace everport {
namespace {

using boost::json::array;
using boost::json::object;
using boost::json::value;

std::string Hex(uint64_t value) {
  return absl::StrCat("0x", absl::Hex(value));
}

object FeatureSet(uint64_t bits, const std::vector<std::string>& names) {
  return {{"hex", Hex(bits)}, {"names", boost::json::value_from(names)}};
}

array UplinksJson(const std::vector<UplinkView>& uplinks) {
  array list;
  for (const UplinkView& uplink : uplinks) {
    const std::string_view kind = UplinkKindName(uplink.config.kind);
    list.push_back(object{{"kind", boost::json::string(kind.data(), kind.size())},
                          {"device", uplink.config.device},
                          {"bridge", uplink.config.bridge},
                          {"bind", uplink.config.bind},
                          {"state", uplink.state},
                          {"error", uplink.error},
                          {"note", uplink.note}});
  }
  return list;
}

array QueuesJson(const std::vector<QueueView>& queues) {
  array list;
  for (const QueueView& queue : queues) {
    list.push_back(object{{"pair", queue.pair},
                          {"rx_enabled", queue.rx_enabled},
                          {"tx_enabled", queue.tx_enabled},
                          {"rx_packets", queue.rx_packets},
                          {"tx_packets", queue.tx_packets}});
  }
  return list;
}

object PostcopyJson(const PostcopyView& postcopy) {
  return {{"phase", postcopy.phase},
          {"seconds", postcopy.seconds},
          {"completed", postcopy.completed},
          {"broken_off", postcopy.broken_off},
          {"total_seconds", postcopy.total_seconds}};
}

}  // namespace

object PortJson(const PortView& port) {
  object json = {{"name", port.config.name},
                 {"state", port.state},
                 {"reason", port.reason},
                 {"origin", port.origin},
                 {"path", object{{"index", port.path.index},
                                 {"kind", port.path.kind},
                                 {"mode", port.path.mode},
                                 {"chosen", port.path.chosen < 0 ? value(nullptr) : value(port.path.chosen)},
                                 {"reason", port.path.reason},
                                 {"warning", port.path.warning}}},
                 {"rx_packets", port.rx_packets},
                 {"tx_packets", port.tx_packets},
                 {"rx_bytes", port.rx_bytes},
                 {"tx_bytes", port.tx_bytes},
                 {"drops", port.drops},
                 {"drops_by_cause", object{{"guest_ring_full", port.drops_guest_ring_full},
                                           {"uplink_full", port.drops_uplink_full},
                                           {"malformed", port.drops_malformed},
                                           {"no_path", port.drops_no_path},
                                           {"uplink_refused", port.drops_refused}}},
                 {"numa_node", port.numa_node},
                 {"poller", port.poller},
                 {"socket", port.config.socket},
                 {"mac", port.config.mac},
                 {"queue_pairs", port.config.queue_pairs},
                 {"mtu", port.config.mtu},
                 {"contract", port.config.contract},
                 {"failback_delay_ms", port.config.failback_delay_ms},
                 {"postcopy", port.config.postcopy},
                 {"uplinks", UplinksJson(port.uplinks)},
                 {"queues", QueuesJson(port.queues)},
                 {"features", FeatureSet(port.negotiated_features, FeatureNames(port.negotiated_features))},
                 {"packed", port.packed},
                 {"needs", NeedsToJson(NeedsOf(port))},
                 {"path_switches", object{{"planned", port.switches.planned}, {"failovers", port.switches.failovers}}},
                 {"sessions", port.sessions},
                 {"replays", port.replays}};
  if (port.config.postcopy) json["postcopy_progress"] = PostcopyJson(port.postcopy);
  return json;
}

object PlacementJson(const PlacementRow& row) {
  return {{"port", row.port},     {"guest_node", row.guest_node},   {"mempool_node", row.mempool_node},
          {"poller", row.poller}, {"poller_node", row.poller_node}, {"note", row.note}};
}

object HealthJson(const HealthView& health, const DaemonConfig& daemon) {
  return {{"ready", health.ready},
          {"daemon", daemon.name},
          {"version", EVERPORT_VERSION},
          {"keeper", health.keeper},
          {"libvirt", health.libvirt},
          {"problems", boost::json::value_from(health.problems)},
          {"startup", object{{"eal_ms", health.startup.eal_ms},
                             {"uplinks_ms", health.startup.uplinks_ms},
                             {"replay_ms", health.startup.replay_ms},
                             {"total_ms", health.startup.total_ms}}}};
}

object EventJson(const EventView& event) {
  object json = {{"id", event.id},
                 {"time_unix_us", event.time_unix_us},
                 {"port", event.port},
                 {"type", event.type},
                 {"message", event.message}};
  if (event.path) {
    json["path"] = object{{"from", event.path->from},
                          {"to", event.path->to},
                          {"cause", event.path->cause},
                          {"ms", event.path->ms},
                          {"lost", event.path->lost}};
  }
  return json;
}

GuestNeeds NeedsOf(const PortView& port) {
  GuestNeeds needs;
  needs.mtu = port.config.mtu;
  needs.queue_pairs = port.config.queue_pairs;
  if (port.state != "running") return needs;
  needs.features = port.negotiated_features;
  needs.ring_size = port.ring_size;
  return needs;
}

}  // namespace everport
