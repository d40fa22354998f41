#include <boost/json/array.hpp>
#include <cstdio>
#include <fstream>
#include <istream>
#include <iterator>
#include <ostream>
#include <tuple>

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

// What the configuration calls `key`, as the command line has it.
std::string OptionOf(const std::string& key, const PortAddOptions& options) {
  if (key == "name") return "NAME";
  if (key == "queue_pairs") return "--queue-pairs";
  if (key == "failback_delay_ms") return "--failback-delay-ms";
  size_t index = 0;
  if (std::sscanf(key.c_str(), "uplink[%zu]", &index) == 1 && index < options.uplinks.size()) {
    return absl::StrCat("--uplink ", options.uplinks[index]);
  }
  return "--" + key;
}

absl::StatusOr<PortConfig> PortFromOptions(const PortAddOptions& options) {
  const std::string what = options.name.empty() ? "port add" : absl::StrCat("port ", options.name);
  const auto refuse = [&](const std::string& key, const std::string& text,
                          absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    return absl::Status(code, absl::StrCat(what, ": ", OptionOf(key, options), ": ", text));
  };
  PortConfig port;
  port.name = options.name;
  port.socket = options.socket;
  port.mac = options.mac;
  if (!options.contract.empty()) port.contract = options.contract;
  for (const auto& [key, value, range] : {std::tuple("queue_pairs", options.queue_pairs, config::kQueuePairs),
                                          std::tuple("mtu", options.mtu, config::kMtu)}) {
    if (value > 0xffff) return refuse(key, config::RangeFault(absl::StrCat(value), range.min, range.max));
  }
  port.queue_pairs = static_cast<uint16_t>(options.queue_pairs);
  port.mtu = static_cast<uint16_t>(options.mtu);
  port.failback_delay_ms = options.failback_delay_ms;
  port.postcopy = options.postcopy;
  for (const std::string& text : options.uplinks) {
    auto uplink = ParseUplink("--uplink", text);
    if (!uplink.ok()) return uplink.status();
    port.uplinks.push_back(*std::move(uplink));
  }
  const auto problems = config::FindProblems(port, nullptr);  // the daemon knows its contracts
  if (!problems.empty()) {
    const bool none = problems[0].key == "uplink";  // the rule's own words are those of the file
    return refuse(problems[0].key, none ? "there is none; give KIND:DEVICE, for example tap:ep-vm1" : problems[0].text,
                  problems[0].code);
  }
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
  auto port = PortFromJson(*text, nullptr);
  if (!port.ok()) {  // the file is at fault, not the command line
    return absl::FailedPreconditionError(absl::StrCat("--file ", options.file, ": ", port.status().message()));
  }
  return port;
}

void PrintUplinks(std::ostream& out, const value& port) {
  Table table({{"UPLINK", true}, {"KIND"}, {"DEVICE"}, {"BRIDGE"}, {"STATE"}, {"NOTE"}});
  const auto* uplinks = port.as_object().if_contains("uplinks");
  if (!uplinks || !uplinks->is_array()) return;
  int index = 0;
  for (const value& uplink : uplinks->get_array()) {
    const std::string error = Text(uplink, "/error");
    table.Add({absl::StrCat(index++), Text(uplink, "/kind"), Text(uplink, "/device"), Text(uplink, "/bridge"),
               Text(uplink, "/state"), error.empty() ? Text(uplink, "/note") : error});
  }
  out << "\n" << table.Text();
}

// For what a port's path line says before.
std::string WhyPath(const value& port) {
  const std::string why = Text(port, "/path/reason");
  if (why.empty()) return "";
  return absl::StrCat(why == "first choice" ? ", the " : ", ", why);
}

// Empty before a guest's driver has agreed to any.
std::string FeaturesText(const value& port) {
  const std::string hex = Text(port, "/features/hex");
  if (hex.empty() || hex == "0x0") return "";
  return absl::StrCat(hex, Text(port, "/packed") == "true" ? ", packed rings" : ", split rings");
}

// What came of a new port; of uplinks that do not work, why, and what it means.
void PrintAdded(std::ostream& out, const value& port) {
  const std::string path = PathText(port);
  std::string failures;
  for (size_t i = 0; port.is_object(); ++i) {
    const std::string base = absl::StrCat("/uplinks/", i), kind = Text(port, (base + "/kind").c_str());
    if (kind.empty()) break;  // past the last
    const std::string error = Text(port, (base + "/error").c_str());
    if (error.empty()) continue;
    const std::string device = Text(port, (base + "/device").c_str());
    absl::StrAppend(&failures, "  uplink ", i, UplinkAside(kind, device, error), " does not work: ", error, "\n");
  }
  out << "port " << Text(port, "/name") << " added: " << Text(port, "/state") << ", ";
  out << (!path.empty() ? "path " + path : failures.empty() ? "no path yet" : "no path") << "\n" << failures;
  if (path.empty() && !failures.empty()) {
    out << "  The guest has no network until one works; they are tried again without further ado.\n";
  }
}

void PrintPort(std::ostream& out, const value& port) {
  const auto line = [&](const char* title, const std::string& text) {
    out << title << (text.empty() ? "-" : text) << "\n";
  };
  const std::string reason = StateNote(port);
  line("port         ", Text(port, "/name"));
  line("state        ", absl::StrCat(Text(port, "/state"), reason.empty() ? "" : ": ", reason));
  const std::string path = PathText(port);
  line("path         ",
       absl::StrCat(path.empty() ? "none" : absl::StrCat(path, " (", Text(port, "/path/mode"), ")"), WhyPath(port)));
  line("origin       ", Text(port, "/origin"));
  line("socket       ", Text(port, "/socket"));
  line("mac          ", Text(port, "/mac"));
  line("mtu          ", Text(port, "/mtu"));
  line("queue pairs  ", Text(port, "/queue_pairs"));
  line("contract     ", Text(port, "/contract"));
  line("features     ", FeaturesText(port));
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

// A vdev's device has commas of its own.
absl::StatusOr<UplinkConfig> ParseUplink(const std::string& flag, const std::string& text) {
  const size_t colon = text.find(':');
  if (colon == std::string::npos || colon + 1 == text.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " ", text, ": not KIND:DEVICE; write for example tap:ep-vm1,bridge=br0"));
  }
  const auto kind = ParseUplinkKind(text.substr(0, colon));
  if (!kind.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(flag, " ", text, ": ", kind.status().message()));
  }
  UplinkConfig uplink{.kind = *kind, .device = text.substr(colon + 1), .bridge = ""};
  const size_t comma = uplink.device.find(',');
  if (*kind == UplinkKind::kVf && comma != std::string::npos) {
    if (uplink.device.substr(comma + 1) != "bind") {
      return absl::InvalidArgumentError(absl::StrCat(flag, " ", text, ": unknown option \"",
                                                     uplink.device.substr(comma + 1), "\"; a vf takes bind alone"));
    }
    uplink.bind = true;
    uplink.device.resize(comma);
  }
  const bool tap = *kind == UplinkKind::kTap || *kind == UplinkKind::kVirtioUser;
  if (tap && comma != std::string::npos) {
    const std::string name = "bridge=", option = uplink.device.substr(comma + 1);
    if (option.compare(0, name.size(), name) != 0 || option.size() == name.size())
      return absl::InvalidArgumentError(
          absl::StrCat(flag, " ", text, ": unknown option \"", option, "\"; a tap takes bridge=NAME alone"));
    uplink.bridge = option.substr(name.size());
    uplink.device.resize(comma);
  }
  return uplink;
}

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
    PrintAdded(client.out(), *added);
  }
  return absl::OkStatus();
}

absl::Status RemovePort(const Client& client, const std::string& name) {
  const auto target = PortTarget(name);
  if (!target.ok()) return target.status();
  const auto removed = client.Do("DELETE", *target);
  if (!removed.ok()) return removed.status();
  const bool stands = client.Get(*target).ok();
  if (client.json()) {
    boost::json::object said{{"removed", name}};
    if (stands) said["stands"] = true;
    client.PrintJson(said);
  } else if (stands) {
    client.out() << "port " << name << ": what was saved of it and left out is removed; the port of that name that "
                 << "there is stands\n";
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
  const auto contract = client.Get("/v1/contract?name=" + Text(*port, "/contract"));
  if (!contract.ok()) return contract.status();
  const std::string xml = LibvirtXml(*port, *contract);
  if (client.json()) {
    client.PrintJson(boost::json::object{{"xml", xml}});
  } else {
    client.out() << xml;
  }
  return absl::OkStatus();
}

absl::Status SwitchPath(const Client& client, const std::string& name, int index) {
  const auto target = PortTarget(name);
  if (!target.ok()) return target.status();
  const auto port = client.Do("POST", *target + "/path", absl::StrCat("{\"index\":", index, "}"));
  if (!port.ok()) return port.status();
  if (const std::string warning = Text(*port, "/path/warning"); !warning.empty())
    client.err() << "everportctl: warning: port " << name << ": " << warning << "\n";
  if (client.json()) {
    client.PrintJson(*port);
  } else {
    const std::string mode = Text(*port, "/path/mode");
    client.out() << "port " << name << ": "
                 << (mode.empty() ? "no path: " + Text(*port, "/path/reason")
                                  : absl::StrCat("path ", PathText(*port), " (", mode, ")"))
                 << "\n";
  }
  return absl::OkStatus();
}

}  // namespace everport::cli
