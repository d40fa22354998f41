#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "backend/cli/commands.h"
#include "backend/cli/format.h"
#include "backend/cli/table.h"

namespace everport::cli {
namespace {

using boost::json::value;

// GET of a list; with --json it is printed as it is, otherwise row turns each element into a table's cells.
template <typename Row>
absl::Status ShowList(const Client& client, const std::string& target, Table table, const Row& row) {
  const auto list = client.Get(target);
  if (!list.ok()) return list.status();
  if (client.json()) {
    client.PrintJson(*list);
    return absl::OkStatus();
  }
  if (!list->is_array()) return absl::InternalError(absl::StrCat("everportd: ", target, " is not a list"));
  for (const value& element : list->get_array()) table.Add(row(element));
  client.out() << table.Text();
  if (list->get_array().empty()) {
    client.io().err << "there are no ports; see everportctl port add --help, or write a [[port]] into everport.toml\n";
  }
  return absl::OkStatus();
}

std::string Bytes(const value& port, const char* pointer) {
  return Scaled(static_cast<double>(Number(port, pointer)), "B");
}

absl::Status ShowPortStats(const Client& client, const std::string& name) {
  const auto port = GetPort(client, name);
  if (!port.ok()) return port.status();
  if (client.json()) {
    client.PrintJson(*port);
    return absl::OkStatus();
  }
  Table totals({{"", false}, {"RX", true}, {"TX", true}});
  totals.Add({"packets", Text(*port, "/rx_packets"), Text(*port, "/tx_packets")});
  totals.Add({"bytes", Text(*port, "/rx_bytes"), Text(*port, "/tx_bytes")});
  Table queues({{"PAIR", true}, {"RX-PACKETS", true}, {"TX-PACKETS", true}, {"RX"}, {"TX"}});
  const auto* list = port->as_object().if_contains("queues");
  if (list && list->is_array()) {
    for (const value& queue : list->get_array()) {
      queues.Add({Text(queue, "/pair"), Text(queue, "/rx_packets"), Text(queue, "/tx_packets"),
                  Text(queue, "/rx_enabled") == "true" ? "on" : "off",
                  Text(queue, "/tx_enabled") == "true" ? "on" : "off"});
    }
  }
  Table drops({{"DROPPED BECAUSE"}, {"PACKETS", true}});
  drops.Add({"guest's receive ring full", Text(*port, "/drops_by_cause/guest_ring_full")});
  drops.Add({"uplink full", Text(*port, "/drops_by_cause/uplink_full")});
  drops.Add({"malformed", Text(*port, "/drops_by_cause/malformed")});
  drops.Add({"no path", Text(*port, "/drops_by_cause/no_path")});
  drops.Add({"refused by the uplink", Text(*port, "/drops_by_cause/uplink_refused")});
  client.out() << totals.Text() << "\n" << queues.Text() << "\n" << drops.Text();
  return absl::OkStatus();
}

void PrintHealth(std::ostream& out, const value& health, bool ready) {
  const auto ms = [&](const char* key) {
    boost::json::error_code error;
    const value* found = health.find_pointer(absl::StrCat("/startup/", key, "_ms"), error);
    return absl::StrCat(found && found->is_number() ? std::lround(found->to_number<double>()) : 0);
  };
  out << "ready     " << (ready ? "yes" : "no") << "\n"
      << "daemon    " << Text(health, "/daemon") << ", version " << Text(health, "/version") << "\n"
      << "keeper    " << Text(health, "/keeper") << "\n"
      << (Text(health, "/libvirt").empty() || Text(health, "/libvirt") == "off"
              ? ""
              : absl::StrCat("libvirt   ", Text(health, "/libvirt"), "\n"))
      << "start-up  " << ms("total") << " ms: EAL " << ms("eal") << ", uplinks " << ms("uplinks") << ", replay "
      << ms("replay") << "\n";
  const auto* problems = health.as_object().if_contains("problems");
  const bool some = problems && problems->is_array() && !problems->get_array().empty();
  out << "problems" << (some ? "" : "  none") << "\n";
  if (!some) return;
  for (const value& problem : problems->get_array()) out << "  " << Text(problem, "") << "\n";
}

std::string EventText(const value& event) {
  const absl::Time time = absl::FromUnixMicros(static_cast<int64_t>(Number(event, "/time_unix_us")));
  const std::string port = Text(event, "/port");
  // In columns as far as a stream can be: longer names push the rest to the right.
  return absl::StrFormat("%s  %-12s  %-8s  %s", absl::FormatTime("%Y-%m-%dT%H:%M:%E3S%Ez", time, absl::LocalTimeZone()),
                         port.empty() ? "everportd" : port, Text(event, "/type"), Text(event, "/message"));
}

}  // namespace

absl::Status ShowPorts(const Client& client) {
  Table table({{"NAME"},
               {"STATE"},
               {"PATH"},
               {"MODE"},
               {"RX-PACKETS", true},
               {"TX-PACKETS", true},
               {"DROPS", true},
               {"NODE", true},
               {"POLLER", true},
               {"ORIGIN"},
               {"NOTE"}});
  return ShowList(client, "/v1/ports", std::move(table), [](const value& port) -> std::vector<std::string> {
    return {Text(port, "/name"),        Text(port, "/state"),      PathText(port),       Text(port, "/path/mode"),
            Text(port, "/rx_packets"),  Text(port, "/tx_packets"), Text(port, "/drops"), IndexText(port, "/numa_node"),
            IndexText(port, "/poller"), Text(port, "/origin"),     NoteText(port)};
  });
}

absl::Status ShowStats(const Client& client, const std::string& port) {
  if (!port.empty()) return ShowPortStats(client, port);
  Table table({{"NAME"},
               {"RX-PACKETS", true},
               {"RX-BYTES", true},
               {"TX-PACKETS", true},
               {"TX-BYTES", true},
               {"DROPS", true},
               {"RING-FULL", true},
               {"UPLINK-FULL", true},
               {"MALFORMED", true},
               {"NO-PATH", true},
               {"REFUSED", true}});
  return ShowList(client, "/v1/ports", std::move(table), [](const value& view) -> std::vector<std::string> {
    return {Text(view, "/name"),
            Text(view, "/rx_packets"),
            Bytes(view, "/rx_bytes"),
            Text(view, "/tx_packets"),
            Bytes(view, "/tx_bytes"),
            Text(view, "/drops"),
            Text(view, "/drops_by_cause/guest_ring_full"),
            Text(view, "/drops_by_cause/uplink_full"),
            Text(view, "/drops_by_cause/malformed"),
            Text(view, "/drops_by_cause/no_path"),
            Text(view, "/drops_by_cause/uplink_refused")};
  });
}

absl::Status ShowPlacement(const Client& client) {
  Table table({{"PORT"}, {"GUEST-NODE", true}, {"POOL-NODE", true}, {"POLLER", true}, {"POLLER-NODE", true}, {"NOTE"}});
  return ShowList(client, "/v1/placement", std::move(table), [](const value& row) -> std::vector<std::string> {
    return {Text(row, "/port"),        IndexText(row, "/guest_node"),  IndexText(row, "/mempool_node"),
            IndexText(row, "/poller"), IndexText(row, "/poller_node"), Text(row, "/note")};
  });
}

absl::Status ShowHealth(const Client& client) {
  const auto health = client.Health();
  if (!health.ok()) return health.status();
  const bool ready = Text(*health, "/ready") == "true";
  if (client.json()) {
    client.PrintJson(*health);
  } else {
    PrintHealth(client.out(), *health, ready);
  }
  if (ready) return absl::OkStatus();
  return absl::FailedPreconditionError("everportd: not ready: no guest is served; mend its problems");
}

absl::Status ShowVersion(const Client& client) {
  const auto health = client.Health();
  if (client.json()) {
    boost::json::object versions{{"everportctl", EVERPORT_VERSION}, {"everportd", nullptr}, {"daemon", nullptr}};
    if (health.ok()) {
      versions["everportd"] = Text(*health, "/version");
      versions["daemon"] = Text(*health, "/daemon");
    }
    client.PrintJson(versions);
    return absl::OkStatus();
  }
  client.out() << "everportctl " << EVERPORT_VERSION << "\n";
  // No daemon is an answer too: the own version has been asked for.
  if (health.ok()) {
    client.out() << "everportd   " << Text(*health, "/version") << " (" << Text(*health, "/daemon") << ")\n";
  } else {
    client.out() << "everportd   not reachable: " << std::string(health.status().message()) << "\n";
  }
  return absl::OkStatus();
}

absl::Status ShowEvents(const Client& client, bool follow) {
  return client.http().Lines(
      follow ? "/v1/events" : "/v1/events?follow=no",
      [&](std::string_view line) {
        boost::json::error_code error;
        const value event = boost::json::parse(line, error);
        if (client.json() || error) {
          client.out() << line << std::endl;
        } else {
          client.out() << EventText(event) << std::endl;
        }
        return client.out().good();
      },
      Client::Refusal);
}

}  // namespace everport::cli
