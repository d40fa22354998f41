// everportd: the daemon. Reading order: this file, service.h, port.h, datapath/endpoint.h, datapath/poller.h.

#include <signal.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <iostream>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "backend/base/log.h"
#include "backend/config/config.h"
#include "backend/config/preflight.h"
#include "backend/service/service.h"
#include "backend/tls/listen_files.h"
#include "numa/topology.h"

namespace everport {
namespace {

struct Arguments {
  std::string config = "/etc/everport/everport.toml";
  std::string log_level;
  bool check = false;
};

// The tap driver is told of frames by a real-time signal; only pollers take those (datapath/poller.cc). Threads
// inherit the mask, so it is set before EAL makes any.
void BlockRealtimeSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (int signo = SIGRTMIN; signo <= SIGRTMAX; ++signo) sigaddset(&set, signo);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

void WaitForSignal(boost::asio::signal_set& signals, boost::asio::io_context& io, Service& service) {
  signals.async_wait([&](boost::system::error_code error, int signo) {
    if (error) return;
    if (signo == SIGHUP) {
      sd_notify(0, "RELOADING=1");
      service.Reload();
      sd_notifyf(0, "READY=1\nSTATUS=%s", service.Summary().c_str());
      return WaitForSignal(signals, io, service);
    }
    spdlog::info("signal {}: stopping; the keeper keeps the guests' sessions", signo);
    sd_notify(0, "STOPPING=1");
    io.stop();
  });
}

int Check(const std::string& file, const Config& config) {
  std::vector<std::string> missing = Preflight(config, PreflightFor::kDaemon, {"", AllowedCpus()});
  if (config.daemon.listen) {
    const auto now = absl::ToUnixSeconds(absl::Now());
    const TlsInspection found = InspectTlsFiles(ListenFiles(*config.daemon.listen), TlsSide::kServer, now);
    for (const std::string& line : found.warnings) std::cerr << "everportd: warning: " << line << "\n";
    missing.insert(missing.end(), found.faults.begin(), found.faults.end());
  }
  return ReportPreflight("everportd", file, config, missing);
}

int Run(const Arguments& arguments, absl::Time started) {
  absl::StatusOr<Config> config = LoadConfig(arguments.config);
  if (!config.ok()) return ReportRefused("everportd", config.status());
  if (arguments.check) return Check(arguments.config, *config);
  const std::string level = arguments.log_level.empty() ? config->daemon.log_level : arguments.log_level;
  InitLogging("everportd", level);
  BlockRealtimeSignals();
  signal(SIGPIPE, SIG_IGN);

  boost::asio::io_context io(1);
  boost::asio::signal_set signals(io, SIGTERM, SIGINT, SIGHUP);
  Service service(io, std::move(*config), arguments.config, started);
  if (absl::Status status = service.Start(); !status.ok()) {
    spdlog::critical("{}", std::string(status.message()));
    return 1;
  }
  WaitForSignal(signals, io, service);
  sd_notifyf(0, "READY=1\nSTATUS=%s", service.Summary().c_str());
  io.run();
  if (service.Stop()) return 0;
  spdlog::warn(
      "a device's driver does not return: everportd ends without it; the guests have been let go of, and the kernel "
      "closes the device");
  spdlog::shutdown();
  _exit(0);
}

}  // namespace
}  // namespace everport

int main(int argc, char** argv) {
  const absl::Time started = absl::Now();
  CLI::App app{
      "everportd: gives each guest's virtio-net NIC its uplink, and keeps it alive.\n"
      "Start everport-keeper first: it holds the guests' sessions while this daemon is restarted or upgraded.\n"
      "Signals: SIGHUP reads the configuration again and applies what has changed; SIGTERM stops.\n"
      "Example: everportd --config /etc/everport/everport.toml"};
  everport::Arguments arguments;
  app.add_option("--config", arguments.config, "configuration file (TOML; everport.toml(5))")->capture_default_str();
  app.add_option("--log-level", arguments.log_level,
                 "trace, debug, info, warning, error or critical; instead of the file's")
      ->check(CLI::IsMember({"trace", "debug", "info", "warning", "error", "critical"}));
  app.add_flag("--check", arguments.check,
               "check the configuration, and whether this host has what it names, and exit");
  app.set_version_flag("--version", "everportd " EVERPORT_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return everport::Run(arguments, started);
}
