// `everportctl doctor`: gathers the facts, shows the findings.
#include <algorithm>
#include <boost/json/array.hpp>
#include <cstring>
#include <filesystem>
#include <ostream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "backend/cli/commands.h"
#include "backend/cli/doctor.h"
#include "backend/cli/format.h"
#include "backend/cli/run_version.h"
#include "backend/cli/table.h"
#include "backend/host/receive_merging.h"

namespace everport::cli {
namespace {

using boost::json::value;

const char* LevelName(Level level) {
  switch (level) {
    case Level::kOk:
      return "OK";
    case Level::kWarn:
      return "WARN";
    case Level::kFail:
      return "FAIL";
  }
  return "?";
}

DoctorPort PortFromView(const value& view) {
  DoctorPort port;
  port.config.name = Text(view, "/name");
  port.config.socket = Text(view, "/socket");
  port.config.postcopy = Text(view, "/postcopy") == "true";
  port.state = Text(view, "/state");
  port.has_path = !PathText(view).empty();
  for (size_t i = 0; view.is_object(); ++i) {
    const std::string base = absl::StrCat("/uplinks/", i);
    const auto kind = ParseUplinkKind(Text(view, (base + "/kind").c_str()));
    if (!kind.ok()) break;  // past the last
    port.config.uplinks.push_back({*kind, Text(view, (base + "/device").c_str()),
                                   Text(view, (base + "/bridge").c_str()),
                                   Text(view, (base + "/bind").c_str()) == "true"});
    port.uplink_errors.push_back(Text(view, (base + "/error").c_str()));
  }
  return port;
}

// The daemon's account. What it cannot tell stays as the configuration has it.
void AskDaemon(const Client& client, DoctorFacts& facts) {
  const auto health = client.Health();
  if (!health.ok()) {
    facts.api_error = std::string(health.status().message());
    return;
  }
  facts.health =
      DoctorHealth{Text(*health, "/ready") == "true", Text(*health, "/keeper"), {}, Text(*health, "/libvirt")};
  if (const auto* problems = health->is_object() ? health->get_object().if_contains("problems") : nullptr;
      problems && problems->is_array()) {
    for (const value& problem : problems->get_array()) facts.health->problems.push_back(Text(problem, ""));
  }
  const auto ports = client.Get("/v1/ports");
  if (!ports.ok() || !ports->is_array()) return;
  facts.ports.clear();
  for (const value& view : ports->get_array()) facts.ports.push_back(PortFromView(view));
}

absl::Status ReadConfig(const std::string& file, DoctorFacts& facts) {
  auto config = LoadConfig(file);
  if (!config.ok()) return absl::FailedPreconditionError(FirstFault(config.status()));
  facts.daemon = config->daemon;
  for (PortConfig& port : config->ports)
    facts.ports.push_back({.config = std::move(port), .state = {}, .uplink_errors = {}});
  return absl::OkStatus();
}

// What the daemon that answers was started with, as far as that can be read: the API does not tell.
void FindDaemonsConfig(const Client& client, DoctorFacts& facts) {
  for (const Process& process : Processes(facts.root)) {
    if (std::filesystem::path(process.args[0]).filename() != "everportd") continue;
    std::string file = "/etc/everport/everport.toml";
    for (size_t i = 1; i < process.args.size(); ++i) {
      if (process.args[i] == "--config" && i + 1 < process.args.size()) file = process.args[i + 1];
      if (absl::StartsWith(process.args[i], "--config=")) file = process.args[i].substr(std::strlen("--config="));
    }
    if (file.empty() || file[0] != '/') file = absl::StrCat("/proc/", process.pid, "/cwd/", file);
    const auto config = LoadConfig(facts.root.prefix() + file);
    if (!config.ok() || config->daemon.run_dir + "/api.sock" != client.http().name()) continue;
    facts.daemon = config->daemon;
    return;
  }
}

void PrintFindings(const Client& client, const std::vector<Finding>& findings) {
  if (client.json()) {
    boost::json::array list;
    for (const Finding& finding : findings) {
      list.push_back(value{{"level", LevelName(finding.level)}, {"object", finding.object}, {"finding", finding.text}});
    }
    return client.PrintJson(list);
  }
  Table table({{"LEVEL"}, {"OBJECT"}, {"FINDING; MEND"}});
  for (const Finding& finding : findings) table.Add({LevelName(finding.level), finding.object, finding.text});
  client.out() << table.Text();
}

}  // namespace

absl::Status RunDoctor(const Client& client, const DoctorOptions& options) {
  if (client.http().over_tcp()) {
    return absl::FailedPreconditionError(absl::StrCat("doctor: looks at the files of its own host, and ",
                                                      client.http().name(), " may be another; run it there"));
  }
  DoctorFacts facts;
  facts.root = HostRoot(options.root);
  facts.run_version = [&](const std::string& exe) { return RunVersion(options.root + exe); };
  if (options.root.empty()) facts.leaves_checksums = LeavesChecksumsUnfinished;
  if (!options.config.empty()) {
    if (absl::Status status = ReadConfig(options.config, facts); !status.ok()) return status;
  }
  AskDaemon(client, facts);
  if (facts.health && !facts.daemon) FindDaemonsConfig(client, facts);
  const std::vector<Finding> findings = Examine(facts);
  PrintFindings(client, findings);
  const auto failed =
      std::count_if(findings.begin(), findings.end(), [](const Finding& f) { return f.level == Level::kFail; });
  if (failed == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("doctor: ", failed, " of ", findings.size(), " findings are FAIL; mend those first"));
}

}  // namespace everport::cli
