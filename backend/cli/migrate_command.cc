#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <ostream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "backend/cli/commands.h"
#include "backend/cli/migrate_api.h"
#include "backend/cli/migrate_output.h"
#include "migration/libvirt_client.h"

namespace everport::cli {
namespace {

// SIGINT, SIGTERM and SIGHUP are heard by a thread of ours alone from construction to destruction: libvirt's and the
// daemon's answers are waited for undisturbed.
class Signals {
 public:
  explicit Signals(std::function<void(int count)> heard) : heard_(std::move(heard)) {
    ::sigemptyset(&set_);
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&set_, number);
    ::pthread_sigmask(SIG_BLOCK, &set_, &before_);
    thread_ = std::thread([this] { Listen(); });
  }
  ~Signals() {
    stop_ = true;
    thread_.join();
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

 private:
  void Listen() {
    const timespec patience{0, 100'000'000};
    for (int count = 0; !stop_;) {
      if (::sigtimedwait(&set_, nullptr, &patience) > 0) heard_(++count);
    }
  }

  const std::function<void(int)> heard_;
  sigset_t set_{}, before_{};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// One that comes to the end by force has no time for more than to say what it leaves.
[[noreturn]] void GiveUp(const std::string& text) {
  (void)!::write(STDERR_FILENO, text.data(), text.size());
  ::_exit(1);
}

// Of what is in braces, which would else be part of a device's name.
absl::Status CheckPlaceholders(const std::string& uplink) {
  const std::string rest = absl::StrReplaceAll(uplink, {{"{port}", ""}, {"{n}", ""}});
  const size_t begin = rest.find_first_of("{}");
  if (begin == std::string::npos) return absl::OkStatus();
  const size_t end = rest.find('}', begin);
  return absl::InvalidArgumentError(
      absl::StrCat("--dest-uplink ", uplink, ": ", rest.substr(begin, end == std::string::npos ? end : end - begin + 1),
                   " is no placeholder; there are {port}, the port's name, and {n}, its number among the domain's"));
}

// The command line's part: whatever the placeholders stand for.
absl::Status CheckUplinks(const std::vector<std::string>& uplinks) {
  for (const std::string& text : uplinks) {
    if (absl::Status status = CheckPlaceholders(text); !status.ok()) return status;
    const std::string port = migration::PortOfUplink(text);
    absl::Status status = ParseUplink("--dest-uplink", port.empty() ? text : text.substr(port.size() + 1)).status();
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RunMigrate(const Client& client, const MigrateOptions& options, const OpenApi& open) {
  if (absl::Status status = CheckUplinks(options.dest_uplinks); !status.ok()) return status;
  auto http = open(options.dest_api, std::chrono::seconds(options.timeout_s));
  if (!http.ok()) return http.status();
  auto quick_http = open(options.dest_api, std::chrono::seconds(std::min(2u, options.timeout_s)));
  if (!quick_http.ok()) return quick_http.status();
  const Client there(client.io(), client.json(), *std::move(http));
  const Client quick(client.io(), client.json(), *std::move(quick_http));
  SourceHost source(client, options.api);
  DestinationHost destination(there, quick, options.dest_api);
  MigrateOutput output(client);

  const auto libvirt = migration::MakeLibvirtClient({.domain = options.domain,
                                                     .from = options.from,
                                                     .to = options.to,
                                                     .migrate_uri = options.migrate_uri,
                                                     .bandwidth_mib_s = options.bandwidth_mib_s,
                                                     .postcopy = options.postcopy,
                                                     .timeout = absl::Seconds(options.timeout_s)});
  migration::Options wish;
  wish.domain = options.domain;
  wish.uplinks = options.dest_uplinks;
  wish.socket_dir = options.dest_socket_dir;
  wish.postcopy = options.postcopy;
  wish.cancel_after_s = options.cancel_after_s;
  migration::Workflow workflow(wish, source, destination, *libvirt, output);
  const Signals signals([&](int count) {  // before libvirt's threads, which begin with the first stage
    if (count > 1) GiveUp(ForcedEnd(options.domain, options.from, workflow.migrating(), workflow.Left()));
    workflow.Cancel();
    output.OnCancel();
  });
  migration::Report report = options.dry_run ? workflow.DryRun() : workflow.Run();
  report.place = output.PlaceIn(report);
  if (client.json()) {
    client.PrintJson(ReportJson(options.domain, report, options.dry_run));
  } else {
    PrintReport(client, options.domain, report, options.dry_run);
  }
  // InvalidArgument is for the command line, which has been found in order.
  if (!absl::IsInvalidArgument(report.status)) return report.status;
  return absl::FailedPreconditionError(report.status.message());
}

}  // namespace everport::cli
