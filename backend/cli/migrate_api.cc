#include "backend/cli/migrate_api.h"

#include <boost/json/serialize.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backend/cli/commands.h"
#include "backend/cli/format.h"

namespace everport::cli {
namespace {

using boost::json::object;
using boost::json::value;
using migration::PortView;

// Why no uplink of a port works; empty: one does.
std::string Broken(const value& port) {
  boost::json::error_code error;
  const value* const uplinks = port.find_pointer("/uplinks", error);
  if (!uplinks || !uplinks->is_array()) return "";
  std::vector<std::string> why;
  for (const value& uplink : uplinks->get_array()) {
    std::string text = Text(uplink, "/error");
    if (text.empty()) return "";
    why.push_back(std::move(text));
  }
  return absl::StrJoin(why, "; ");
}

PortView ToView(const value& port) {
  PortView view;
  view.name = Text(port, "/name");
  view.socket = Text(port, "/socket");
  view.mac = Text(port, "/mac");
  view.contract = Text(port, "/contract");
  view.queue_pairs = static_cast<unsigned>(Number(port, "/queue_pairs"));
  view.mtu = static_cast<unsigned>(Number(port, "/mtu"));
  view.failback_delay_ms = static_cast<uint32_t>(Number(port, "/failback_delay_ms"));
  view.postcopy = Text(port, "/postcopy") == "true";
  view.state = Text(port, "/state");
  view.reason = Text(port, "/reason");
  view.has_path = !IndexText(port, "/path/index").empty();
  view.broken = Broken(port);
  view.counts = Text(port, "/path/mode") != "offload";
  view.frames = Number(port, "/rx_packets") + Number(port, "/tx_packets");
  return view;
}

absl::StatusOr<std::vector<PortView>> ListPorts(const Client& client, const std::string& address) {
  const auto ports = client.Get("/v1/ports");
  if (!ports.ok()) return ports.status();
  if (!ports->is_array()) return absl::InternalError(absl::StrCat(address, ": /v1/ports is no list"));
  std::vector<PortView> views;
  for (const value& port : ports->get_array()) views.push_back(ToView(port));
  return views;
}

absl::Status RemovePortOf(const Client& client, const std::string& name) {
  return client.Do("DELETE", "/v1/ports/" + name).status();
}

value At(const value& from, const char* pointer) {
  boost::json::error_code error;
  const value* const found = from.find_pointer(pointer, error);
  return found ? *found : value(nullptr);
}

}  // namespace

absl::StatusOr<std::vector<PortView>> SourceHost::Ports() {
  return ListPorts(client_, address_);
}

absl::Status SourceHost::Remove(const std::string& name) {
  return RemovePortOf(client_, name);
}

absl::StatusOr<migration::Offer> SourceHost::OfferOf(const PortView& port) {
  const auto whole = GetPort(client_, port.name);
  if (!whole.ok()) return whole.status();
  const auto document = client_.Get("/v1/contract?name=" + port.contract);
  if (!document.ok()) return document.status();
  return migration::Offer{boost::json::serialize(object{{"document", *document}, {"needs", At(*whole, "/needs")}})};
}

absl::StatusOr<std::vector<PortView>> DestinationHost::Ports() {
  return ListPorts(client_, address_);
}

absl::StatusOr<std::vector<PortView>> DestinationHost::PortsSoon() {
  return ListPorts(quick_, address_);
}

absl::Status DestinationHost::Remove(const std::string& name) {
  return RemovePortOf(client_, name);
}

absl::Status DestinationHost::Ready() {
  const auto health = client_.Health();
  if (!health.ok()) return health.status();
  if (Text(*health, "/ready") == "true") return absl::OkStatus();
  std::vector<std::string> problems;
  if (const value list = At(*health, "/problems"); list.is_array()) {
    for (const value& problem : list.get_array()) problems.push_back(Text(problem, ""));
  }
  return absl::FailedPreconditionError(
      absl::StrCat(address_, " is not ready: ", problems.empty() ? "see its log" : absl::StrJoin(problems, "; ")));
}

absl::StatusOr<migration::Compatibility> DestinationHost::Check(const migration::Offer& offer) {
  const auto verdict = client_.Do("POST", "/v1/contract/check", offer.json);
  if (!verdict.ok()) return verdict.status();
  migration::Compatibility answer;
  answer.compatible = Text(*verdict, "/compatible") == "true";
  if (const value list = At(*verdict, "/findings"); list.is_array()) {
    for (const value& finding : list.get_array()) {
      answer.findings.push_back({.field = Text(finding, "/field"),
                                 .here = Text(finding, "/here"),
                                 .there = Text(finding, "/there"),
                                 .breaks = Text(finding, "/breaks") == "true",
                                 .why = Text(finding, "/why"),
                                 .mend = Text(finding, "/mend")});
    }
  }
  return answer;
}

absl::StatusOr<std::string> DestinationHost::Add(const migration::PortWish& wish) {
  PortConfig port;
  port.name = wish.port.name;
  port.socket = wish.port.socket;
  port.mac = wish.port.mac;
  port.contract = wish.port.contract;
  port.queue_pairs = static_cast<uint16_t>(wish.port.queue_pairs);
  port.mtu = static_cast<uint16_t>(wish.port.mtu);
  port.failback_delay_ms = wish.port.failback_delay_ms;
  port.postcopy = wish.port.postcopy;
  for (const std::string& text : wish.uplinks) {
    auto uplink = ParseUplink("--dest-uplink", text);
    if (!uplink.ok()) return absl::FailedPreconditionError(uplink.status().message());
    port.uplinks.push_back(*std::move(uplink));
  }
  const auto added = client_.Do("POST", "/v1/ports", PortToJson(port));
  if (!added.ok()) return added.status();
  if (!PathText(*added).empty()) return "";
  for (size_t i = 0; i < wish.uplinks.size(); ++i) {  // a guest there would be without network
    const std::string error = Text(*added, absl::StrCat("/uplinks/", i, "/error").c_str());
    if (error.empty()) continue;
    return absl::UnavailableError(
        absl::StrCat("port ", port.name, " at ", address_, ": uplink ", wish.uplinks[i], " does not work: ", error));
  }
  return absl::StrCat("port ", port.name, " has no path at the destination yet");
}

}  // namespace everport::cli
