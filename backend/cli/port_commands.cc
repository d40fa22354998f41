#include <boost/json/array.hpp>
#include <fstream>
#include <istream>
#include <iterator>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "backend/cli/commands.h"
#include "backend/cli/format.h"
#include "backend/cli/libvirt_xml.h"
#include "backend/cli/table.h"
#include "backend/config/check.h"
#include "backend/config/config.h"

namespace everport::cli {
namespace {

using boost::json::value;

// KIND:DEVICE[,bridge=BR]; a vdev's device has commas of its own.
absl::StatusOr<UplinkConfig> ParseUplink(const std::string& text) {
  const size_t colon = text.find(':');
  if (colon == std::string::npos || colon + 1 == text.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--uplink ", text, ": not KIND:DEVICE; write for example tap:ep-vm1,bridge=br0"));
  }
  const auto kind = ParseUplinkKind(text.substr(0, colon));
  if (!kind.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--uplink ", text, ": ", kind.status().message()));
  }
  UplinkConfig uplink{.kind = *kind, .device = text.substr(colon + 1), .bridge = ""};
  const size_t comma = uplink.device.find(',');
  if (*kind == UplinkKind::kTap && comma != std::string::npos) {
    const std::string name = "bridge=", option = uplink.device.substr(comma + 1);
    if (option.compare(0, name.size(), name) != 0 || option.size() == name.size())
      return absl::InvalidArgumentError(
          absl::StrCat("--uplink ", text, ": unknown option \"", option, "\"; a tap takes bridge=NAME alone"));
    uplink.bridge = option.substr(name.size());
    uplink.device.resize(comma);
  }
  return uplink;
}

absl::StatusOr<PortConfig> PortFromOptions(const PortAddOptions& options) {
  PortConfig port;
  port.name = options.name;
  port.socket = options.socket;
  port.mac = options.mac;
  if (!options.contract.empty()) port.contract = options.contract;
  if (options.queue_pairs > 0xffff || options.mtu > 0xffff) {
    return absl::InvalidArgumentError(
        absl::StrCat("port ", port.name, ": queue pairs or MTU out of range; up to 16 and 9216 are possible"));
  }
  port.queue_pairs = static_cast<uint16_t>(options.queue_pairs);
  port.mtu = static_cast<uint16_t>(options.mtu);
  for (const std::string& text : options.uplinks) {
    auto uplink = ParseUplink(text);
    if (!uplink.ok()) return uplink.status();
    port.uplinks.push_back(*std::move(uplink));
  }
  if (absl::Status status = CheckPort(port, absl::StrCat("port ", port.name)); !status.ok()) return status;
  return port;
}

absl::StatusOr<std::string> ReadAll(const Client& client, const std::string& file) {
  std::ifstream opened;
  if (file != "-") {
    opened.open(file);
    if (!opened) {
      return absl::NotFoundError(absl::StrCat("--file ", file, ": cannot be read; name a JSON file, or - for stdin"));
    }
  }
  std::istream& in = file == "-" ? client.io().in : opened;
  return std::string(std::istreambuf_iterator<char>(in), {});
}

// What to send: checked here already, with the daemon's own rules and words.
absl::StatusOr<PortConfig> WantedPort(const Client& client, const PortAddOptions& options) {
  if (options.file.empty()) return PortFromOptions(options);
  const auto text = ReadAll(client, options.file);
  if (!text.ok()) return text.status();
  return PortFromJson(*text);
}

void PrintUplinks(std::ostream& out, const value& port) {
  Table table({{"UPLINK", true}, {"KIND"}, {"DEVICE"}, {"BRIDGE"}, {"STATE"}, {"ERROR"}});
  const auto* uplinks = port.as_object().if_contains("uplinks");
  if (!uplinks || !uplinks->is_array()) return;
  int index = 0;
  for (const value& uplink : uplinks->get_array()) {
    table.Add({absl::StrCat(index++), Text(uplink, "/kind"), Text(uplink, "/device"), Text(uplink, "/bridge"),
               Text(uplink, "/state"), Text(uplink, "/error")});
  }
  out << "\n" << table.Text();
}

void PrintPort(std::ostream& out, const value& port) {
  const auto line = [&](const char* title, const std::string& text) {
    out << title << (text.empty() ? "-" : text) << "\n";
  };
  const std::string reason = Text(port, "/reason");
  line("port         ", Text(port, "/name"));
  line("state        ", absl::StrCat(Text(port, "/state"), reason.empty() ? "" : ": ", reason));
  const std::string path = PathText(port), why = Text(port, "/path/reason");
  line("path         ", absl::StrCat(path.empty() ? "none" : absl::StrCat(path, " (", Text(port, "/path/mode"), ")"),
                                     why.empty() ? "" : ": ", why));
  line("socket       ", Text(port, "/socket"));
  line("mac          ", Text(port, "/mac"));
  line("mtu          ", Text(port, "/mtu"));
  line("queue pairs  ", Text(port, "/queue_pairs"));
  line("contract     ", Text(port, "/contract"));
  line("features     ",
       absl::StrCat(Text(port, "/features/hex"), Text(port, "/packed") == "true" ? ", packed rings" : ", split rings"));
  line("numa node    ", IndexText(port, "/numa_node"));
  line("poller       ", IndexText(port, "/poller"));
  line("sessions     ", absl::StrCat(Text(port, "/sessions"), ", taken over ", Text(port, "/replays")));
  line("rx           ", absl::StrCat(Text(port, "/rx_packets"), " packets, ", Text(port, "/rx_bytes"), " bytes"));
  line("tx           ", absl::StrCat(Text(port, "/tx_packets"), " packets, ", Text(port, "/tx_bytes"), " bytes"));
  line("drops        ", Text(port, "/drops"));
  PrintUplinks(out, port);
}

absl::StatusOr<std::string> PortTarget(const std::string& name) {
  if (!config::ValidName(name)) {
    return absl::InvalidArgumentError(
        absl::StrCat("port ", name, ": not a port's name; `everportctl ports` lists those there are"));
  }
  return absl::StrCat("/v1/ports/", name);
}

}  // namespace

absl::StatusOr<value> GetPort(const Client& client, const std::string& name) {
  const auto target = PortTarget(name);
  if (!target.ok()) return target.status();
  auto port = client.Get(*target);
  if (port.ok() && !port->is_object())
    return absl::InternalError(absl::StrCat("everportd: ", *target, " is no object"));
  return port;
}

absl::Status AddPort(const Client& client, const PortAddOptions& options) {
  const auto port = WantedPort(client, options);
  if (!port.ok()) return port.status();
  const auto added = client.Do("POST", "/v1/ports", PortToJson(*port));
  if (!added.ok()) return added.status();
  if (client.json()) {
    client.PrintJson(*added);
  } else {
    client.out() << "port " << port->name << " added: " << Text(*added, "/state") << "\n";
  }
  return absl::OkStatus();
}

absl::Status RemovePort(const Client& client, const std::string& name) {
  const auto target = PortTarget(name);
  if (!target.ok()) return target.status();
  const auto removed = client.Do("DELETE", *target);
  if (!removed.ok()) return removed.status();
  if (client.json()) {
    client.PrintJson(boost::json::object{{"removed", name}});
  } else {
    client.out() << "port " << name << " removed\n";
  }
  return absl::OkStatus();
}

absl::Status ShowPort(const Client& client, const std::string& name) {
  const auto port = GetPort(client, name);
  if (!port.ok()) return port.status();
  client.json() ? client.PrintJson(*port) : PrintPort(client.out(), *port);
  return absl::OkStatus();
}

absl::Status ShowLibvirtXml(const Client& client, const std::string& name) {
  const auto port = GetPort(client, name);
  if (!port.ok()) return port.status();
  const std::string xml = LibvirtXml(*port);
  if (client.json()) {
    client.PrintJson(boost::json::object{{"xml", xml}});
  } else {
    client.out() << xml;
  }
  return absl::OkStatus();
}

absl::Status SwitchPath(const Client& client, const std::string& name, unsigned index) {
  const auto target = PortTarget(name);
  if (!target.ok()) return target.status();
  const auto port = client.Do("POST", *target + "/path", absl::StrCat("{\"index\":", index, "}"));
  if (!port.ok()) return port.status();
  if (client.json()) {
    client.PrintJson(*port);
  } else {
    client.out() << "port " << name << ": path " << PathText(*port) << " (" << Text(*port, "/path/mode") << ")\n";
  }
  return absl::OkStatus();
}

}  // namespace everport::cli
