// everport-keeper: holds the guests' vhost-user sessions, so that no guest sees its daemon leave.

#include <sys/resource.h>
#include <systemd/sd-daemon.h>

#include <CLI/CLI.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <cstdio>
#include <string>

#include "backend/base/log.h"
#include "backend/config/config.h"
#include "backend/config/preflight.h"
#include "backend/keeper/keeper.h"

namespace everport {
namespace {

constexpr int kUsage = 2;

// A session holds up to 8 memory descriptors and 3 a ring, and as many again during a replay.
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

int Run(const Config& config) {
  boost::asio::io_context io(1);
  boost::asio::signal_set stop(io, SIGTERM, SIGINT);
  stop.async_wait([&io](const boost::system::error_code& error, int signal) {
    if (error) return;
    spdlog::info("keeper: signal {}, ends; guests lose their links", signal);
    io.stop();
  });
  Keeper keeper(io);
  if (const absl::Status status = keeper.Start(config); !status.ok()) {
    spdlog::critical("keeper: {}", std::string(status.message()));
    return 1;
  }
  spdlog::info("keeper: ready, {} port{}, {}/keeper.sock", keeper.ports(), keeper.ports() == 1 ? "" : "s",
               config.daemon.run_dir);
  ::sd_notifyf(0, "READY=1\nSTATUS=%zu port%s from the configuration", keeper.ports(), keeper.ports() == 1 ? "" : "s");
  io.run();
  ::sd_notify(0, "STOPPING=1");
  return 0;
}

int Main(int argc, char** argv) {
  CLI::App app{
      "Holds guests' vhost-user sessions: connects to QEMU's sockets (server=on) and lets everportd come and go\n"
      "behind them without the guests noticing. Serves RUN_DIR/keeper/PORT.sock and RUN_DIR/keeper.sock.",
      "everport-keeper"};
  std::string file, level;
  bool check = false;
  app.add_option("--config", file, "Configuration (TOML), the same file as everportd's")->required()->type_name("FILE");
  app.add_option("--log-level", level, "trace, debug, info, warning, error or critical; default: the file's, or info");
  app.add_flag("--check", check, "Check the configuration, and whether this host has its folders, and end");
  app.set_version_flag("--version", "everport-keeper " EVERPORT_VERSION);
  app.footer("SIGTERM and SIGINT end it, and with it the guests' links: it need not be restarted with the daemon.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsage;
  }

  const bool known = InitLogging("everport-keeper", level.empty() ? "info" : level);
  if (!known) {
    std::fprintf(stderr, "everport-keeper: --log-level %s: use trace, debug, info, warning, error or critical\n",
                 level.c_str());
    return kUsage;
  }
  const absl::StatusOr<Config> config = LoadConfig(file);
  if (!config.ok()) return ReportRefused("everport-keeper", config.status());
  if (check) return ReportPreflight("everport-keeper", file, *config, Preflight(*config, PreflightFor::kKeeper, {}));
  if (level.empty()) InitLogging("everport-keeper", config->daemon.log_level);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGHUP, SIG_IGN);  // ports change through the daemons
  RaiseDescriptorLimit();
  return Run(*config);
}

}  // namespace
}  // namespace everport

int main(int argc, char** argv) {
  return everport::Main(argc, argv);
}
