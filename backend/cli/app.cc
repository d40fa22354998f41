#include "backend/cli/app.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <climits>
#include <functional>
#include <ostream>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "backend/cli/commands.h"
#include "backend/cli/top.h"
#include "backend/cli/usage.h"

namespace everport::cli {
namespace {

using Action = std::function<absl::Status(const Client&)>;

// What the command line says. action: the verb's, set by the verb that was given.
struct Options {
  std::string api;
  TlsFiles tls{.certificate = "/etc/everport/host.crt",
               .key = "/etc/everport/host.key",
               .ca = "/etc/everport/ca.crt",
               .certificate_label = "--cert",
               .key_label = "--key",
               .ca_label = "--ca"};
  bool json = false;
  Action action;

  std::string name;
  std::string against;  // of contract check
  std::string index;    // of path
  PortAddOptions add;
  bool no_follow = false;
  TopOptions top;
  DoctorOptions doctor;
  MigrateOptions migrate;
};

CLI::App* Verb(CLI::App& app, Options& options, const char* name, const char* description, const char* example,
               Action action) {
  CLI::App* verb = app.add_subcommand(name, description);
  verb->footer(absl::StrCat("Example:\n  ", example, "\n"));
  verb->callback([&options, action = std::move(action)] { options.action = action; });
  return verb;
}

// The API of the daemon at `where`, ours or another, as `option` says.
absl::StatusOr<HttpClient> OpenHttp(const Options& options, const std::string& where, const char* option,
                                    std::chrono::seconds timeout = HttpClient::kTimeout) {
  return HttpClient::Open(where, options.tls, timeout, option);
}

Action NotYet(const char* what) {
  return [what](const Client&) {
    return absl::UnimplementedError(
        absl::StrCat(what, ": not available yet in this version; see the release notes of later ones"));
  };
}

void AddShowVerbs(CLI::App& app, Options& o) {
  Verb(app, o, "ports", "List the ports: state, path, counters, where each is served.", "everportctl ports",
       [](const Client& client) { return ShowPorts(client); });
  Verb(app, o, "stats", "Counters of all ports, with drops by cause; of one port by queue.",
       "everportctl stats vm1-net0", [&o](const Client& client) { return ShowStats(client, o.name); })
      ->add_option("NAME", o.name, "port; all if left out");
  Verb(app, o, "events", "What happened lately, then what happens, as it happens.", "everportctl events --no-follow",
       [&o](const Client& client) { return ShowEvents(client, !o.no_follow); })
      ->add_flag("--no-follow", o.no_follow, "end after the recent ones");
  Verb(app, o, "placement", "On which NUMA node and poller each port is served.", "everportctl placement",
       [](const Client& client) { return ShowPlacement(client); });
  Verb(app, o, "health", "Whether the daemon serves, and what it has to complain of.", "everportctl health",
       [](const Client& client) { return ShowHealth(client); });
  Verb(app, o, "version", "The version of everportctl and of the daemon.", "everportctl version",
       [](const Client& client) { return ShowVersion(client); });
  CLI::App* contract = app.add_subcommand("contract", "Feature contracts: what a guest's NIC offers.");
  contract->require_subcommand(0, 1);
  Verb(*contract, o, "show", "List the contracts, or show one, or what a port's guest is offered and has negotiated.",
       "everportctl contract show vm1-net0\n  everportctl --json contract show everport-1 > everport-1.json",
       [&o](const Client& client) { return ShowContracts(client, o.name); })
      ->add_option("NAME", o.name, "contract or port; all contracts if left out");
  CLI::App* check = Verb(*contract, o, "check", "Field by field, what a port's guest would lose on another host.",
                         "everportctl contract check vm1-net0 --against everport-1.json", [&o](const Client& client) {
                           return CheckContract(client, o.name, o.against,
                                                [&o](const std::string& where, std::chrono::seconds timeout) {
                                                  return OpenHttp(o, where, "--against", timeout);
                                                });
                         });
  check->add_option("PORT", o.name, "port")->required();
  check->add_option("--against", o.against, "a contract document, or the api.sock or URL of the other host's daemon")
      ->required()
      ->type_name("FILE|URL");
}

void AddPortVerbs(CLI::App& app, Options& o) {
  CLI::App* port = app.add_subcommand("port", "Add, remove or show one port.");
  port->require_subcommand(0, 1);
  CLI::App* add = Verb(*port, o, "add", "Add a port. It is kept across restarts of the daemon.",
                       "everportctl port add vm1-net0 --socket /run/vms/vm1-net0.sock --uplink tap:ep-vm1,bridge=br0\n"
                       "  everportctl port add --file vm1-net0.json",
                       [&o](const Client& client) { return AddPort(client, o.add); });
  auto* name = add->add_option("NAME", o.add.name, "the port's name");
  auto* socket = add->add_option("--socket", o.add.socket, "path of QEMU's vhost-user socket (server=on)");
  auto* uplink =
      add->add_option("--uplink", o.add.uplinks,
                      "KIND:DEVICE[,bridge=BRIDGE], vf:ADDRESS[,bind]; repeat it for further choices, best first")
          ->allow_extra_args(false);
  auto* mac = add->add_option("--mac", o.add.mac, "MAC address; made from the name if left out");
  auto* pairs = add->add_option("--queue-pairs", o.add.queue_pairs, "1 to 16, as in QEMU's queues=");
  auto* mtu = add->add_option("--mtu", o.add.mtu, "bytes, 68 to 9216");
  auto* contract = add->add_option("--contract", o.add.contract, "feature contract; everport-1 if left out");
  auto* failback = add->add_option("--failback-delay-ms", o.add.failback_delay_ms,
                                   "how long a better uplink must have been well to be used again")
                       ->capture_default_str();
  auto* postcopy = add->add_flag("--postcopy", o.add.postcopy, "the guest may arrive by post-copy migration");
  auto* file = add->add_option("--file", o.add.file, "all of it as JSON, from a file or - (stdin)");
  for (CLI::Option* option : {name, socket, uplink, mac, pairs, mtu, contract, failback, postcopy})
    file->excludes(option);

  Verb(*port, o, "remove", "Remove a port; its guest's link goes down.", "everportctl port remove vm1-net0",
       [&o](const Client& client) { return RemovePort(client, o.name); })
      ->add_option("NAME", o.name, "port")
      ->required();
  Verb(*port, o, "show", "All about one port.", "everportctl port show vm1-net0",
       [&o](const Client& client) { return ShowPort(client, o.name); })
      ->add_option("NAME", o.name, "port")
      ->required();
  CLI::App* path = Verb(app, o, "path", "Switch a port to another of its uplinks, which the guest does not notice.",
                        "everportctl path vm1-net0 1      # its second uplink, as long as that works\n"
                        "  everportctl path vm1-net0 auto   # by the configuration's order again",
                        [&o](const Client& client) {
                          int index = -1;
                          if (o.index != "auto") (void)absl::SimpleAtoi(o.index, &index);  // it has been checked
                          return SwitchPath(client, o.name, index);
                        });
  path->add_option("NAME", o.name, "port")->required();
  path->add_option("UPLINK-INDEX", o.index, "0 is the first uplink; auto: the configuration's order decides again")
      ->required()
      ->type_name("N|auto")
      ->check(CLI::Validator(
          [](const std::string& text) {
            unsigned index = 0;  // the daemon knows which there are
            if (text == "auto" || (absl::SimpleAtoi(text, &index) && index <= INT_MAX)) return std::string();
            return absl::StrCat("\"", text, "\" is neither the index of an uplink, counted from 0, nor auto");
          },
          "", "UPLINK-INDEX"));
}

void AddWatchVerbs(CLI::App& app, Options& o) {
  CLI::App* top = Verb(app, o, "top", "Rates of all ports, each second anew; q quits.",
                       "everportctl top --count 5 | cat", [&o](const Client& client) { return RunTop(client, o.top); });
  top->add_option("--count", o.top.count, "end after so many tables");
  top->add_option("--interval", o.top.interval_s, "seconds between two tables")->capture_default_str();
  CLI::App* doctor =
      Verb(app, o, "doctor", "Look for the usual mistakes: sockets, guests' memory, hugepages, bridges, QEMU versions.",
           "everportctl doctor --config /etc/everport/everport.toml",
           [&o](const Client& client) { return RunDoctor(client, o.doctor); });
  doctor->add_option("--config", o.doctor.config,
                     "everport.toml, to look at its ports when the daemon does not answer");
  doctor->add_option("--root", o.doctor.root, "")->group("");  // tests
  Verb(app, o, "libvirt-xml", "What to put into a libvirt domain so that it uses a port.",
       "everportctl libvirt-xml vm1-net0", [&o](const Client& client) { return ShowLibvirtXml(client, o.name); })
      ->add_option("NAME", o.name, "port")
      ->required();
}

void AddLaterVerbs(CLI::App& app, Options& o) {
  Verb(app, o, "handover", "Hand all ports over to another daemon (not available yet).", "everportctl handover",
       NotYet("handover"));
  Verb(app, o, "drain", "Move all ports away, before maintenance (not available yet).", "everportctl drain",
       NotYet("drain"));
}

// Number: uint64_t or double. CLI11's own check takes -3 for a large number, and prints limits in full.
template <typename Number>
CLI::Validator Within(Number low, Number high, const char* unit) {
  return CLI::Validator(
      [=](const std::string& text) {
        Number number = 0;
        bool parsed = false;
        if constexpr (std::is_floating_point_v<Number>) {
          parsed = absl::SimpleAtod(text, &number);
        } else {
          parsed = absl::SimpleAtoi(text, &number);
        }
        if (parsed && number >= low && number <= high) return std::string();  // nan is not
        return absl::StrCat("\"", text, "\" is not ", unit, " from ", low, " to ", high);
      },
      "");
}

void AddMigrateVerb(CLI::App& app, Options& o) {
  MigrateOptions& m = o.migrate;
  CLI::App* verb =
      Verb(app, o, "migrate", "Move a running guest to another host, ports and all, through libvirt.",
           "everportctl migrate vm1 --to qemu+tls://b/system --dest-api https://b:9440 \\\n"
           "      --dest-uplink tap:ep-{port},bridge=br0",
           [&o](const Client& client) {
             o.migrate.api = o.api;
             return RunMigrate(client, o.migrate, [&o](const std::string& where, std::chrono::seconds timeout) {
               return OpenHttp(o, where, "--dest-api", timeout);
             });
           });
  verb->add_option("DOMAIN", m.domain, "libvirt's name or UUID of it")->required();
  verb->add_option("--to", m.to, "libvirt URI of the destination, as the source's libvirtd sees it")->required();
  verb->add_option("--dest-api", m.dest_api, "the destination's daemon: a URL, or the path of its API socket")
      ->required();
  verb->add_option("--from", m.from, "libvirt URI of the source")->capture_default_str();
  verb->add_option("--dest-uplink", m.dest_uplinks,
                   "of ports to be made there: [PORT=]KIND:DEVICE[,bridge=BRIDGE]; {port} is the port's name, {n} its "
                   "number; repeat it for further choices, best first")
      ->allow_extra_args(false);
  verb->add_option("--dest-socket-dir", m.dest_socket_dir,
                   "where QEMU makes its sockets there, of ports to be made; as here if left out");
  verb->add_option("--migrate-uri", m.migrate_uri, "where libvirt sends the memory, for example tcp://10.0.0.2");
  constexpr uint64_t kMaxBandwidth = INT64_MAX >> 20;  // libvirt's: what it passes on in bytes
  constexpr double kDay_s = 86400;
  verb->add_option("--bandwidth", m.bandwidth_mib_s, "MiB/s at most; no limit if left out")
      ->check(Within<uint64_t>(1, kMaxBandwidth, "a number of MiB/s"));
  verb->add_option("--timeout", m.timeout_s,
                   "seconds after which a silent host, or a migration without progress, is "
                   "given up")
      ->capture_default_str()
      ->check(CLI::Range(1, 3600));
  verb->add_option("--cancel-after", m.cancel_after_s, "seconds of sending memory after which it is cancelled")
      ->check(Within<double>(0, kDay_s, "a number of seconds"));
  verb->add_flag("--postcopy", m.postcopy, "start the guest there after one pass over its memory");
  verb->add_flag("--dry-run", m.dry_run, "check all, change nothing, say what would be done");
}

// "not_found"; what is wrong with the command line itself is "usage".
std::string CodeName(const absl::Status& status) {
  if (absl::IsInvalidArgument(status)) return "usage";
  return absl::AsciiStrToLower(absl::StatusCodeToString(status.code()));
}

// One line, on stderr also as JSON: stdout has results alone, so that what reads it need not tell them from errors.
int Fail(CliIo& io, bool json, const absl::Status& status) {
  std::string line(status.message());
  for (char& c : line) {
    if (c == '\n') c = ' ';
  }
  if (json) {
    io.err << boost::json::serialize(boost::json::object{{"error", {{"code", CodeName(status)}, {"message", line}}}})
           << "\n";
  } else {
    io.err << "everportctl: " << line << "\n";
  }
  return absl::IsInvalidArgument(status) ? 2 : 1;
}

int Run(const Options& options, CliIo& io) {
  auto http = OpenHttp(options, options.api, "--api");
  if (!http.ok()) return Fail(io, options.json, http.status());
  const Client client(io, options.json, *std::move(http));
  const absl::Status status = options.action(client);
  return status.ok() ? 0 : Fail(io, options.json, status);
}

}  // namespace

int RunCli(int argc, const char* const argv[], const std::string& default_api, CliIo& io) {
  Options options;
  options.api = default_api;
  CLI::App app("everportctl: the command line of everportd.", "everportctl");
  app.footer(
      "Each verb has a --help of its own, with an example.\nStart with `everportctl doctor` and `everportctl "
      "ports`.\n");
  app.require_subcommand(0, 1);
  app.option_defaults()->ignore_underscore();
  app.add_option("--api", options.api, "path of the daemon's API socket, or https://HOST:PORT ($EVERPORT_API)")
      ->capture_default_str();
  app.add_option("--cert", options.tls.certificate, "with https://: this client's certificate (PEM)")
      ->envname("EVERPORT_CERT")
      ->capture_default_str();
  app.add_option("--key", options.tls.key, "with https://: its private key")
      ->envname("EVERPORT_KEY")
      ->capture_default_str();
  app.add_option("--ca", options.tls.ca, "with https://: the CA that issued the daemon's certificate")
      ->envname("EVERPORT_CA")
      ->capture_default_str();
  app.add_flag("--json", options.json, "JSON on stdout, and errors as JSON on stderr, for programs");
  app.set_version_flag("--version", "everportctl " EVERPORT_VERSION);
  app.fallthrough();
  // Known also where the rest cannot be parsed.
  const bool json = std::any_of(argv + 1, argv + argc, [](const char* word) { return word == std::string("--json"); });
  AddShowVerbs(app, options);
  AddPortVerbs(app, options);
  AddWatchVerbs(app, options);
  AddLaterVerbs(app, options);
  AddMigrateVerb(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error, io.out, io.err);  // --help, --version
    return Fail(io, json, absl::InvalidArgumentError(UsageText(app, error)));
  }
  if (!options.action) {  // CLI11's own check would hide which word it did not know
    return Fail(io, json, absl::InvalidArgumentError(MissingVerbText(app)));
  }
  return Run(options, io);
}

}  // namespace everport::cli
