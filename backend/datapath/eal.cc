#include "backend/datapath/eal.h"

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_log.h>
#include <rte_version.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backend/base/log.h"
#include "backend/datapath/bpf_log.h"

namespace everport {
namespace {

bool g_hugepages = false;

// Free hugepages of any size; memory "auto" takes them where there are at least this many MiB.
constexpr uint64_t kMinHugeMib = 64;

uint64_t FreeHugeMib() {
  std::ifstream meminfo("/proc/meminfo");
  uint64_t pages = 0, kib = 0;
  for (std::string line; std::getline(meminfo, line);) {
    (void)(std::sscanf(line.c_str(), "HugePages_Free: %lu", &pages) ||
           std::sscanf(line.c_str(), "Hugepagesize: %lu", &kib));
  }
  return pages * kib / 1024;
}

// Ordinary pages are reserved as one mapping and touched when used, so the figure bounds rather than costs.
// A quarter of the machine, between 256 MiB and 2 GiB: 256 ports need about 1 GiB.
unsigned OrdinaryMib() {
  const uint64_t total = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE) >> 20;
  return static_cast<unsigned>(std::clamp<uint64_t>(total / 4, 256, 2048));
}

bool WantHugepages(DaemonConfig::Memory memory) {
  switch (memory) {
    case DaemonConfig::Memory::kHugepages:
      return true;
    case DaemonConfig::Memory::kOrdinary:
      return false;
    case DaemonConfig::Memory::kAuto:
      break;
  }
  const uint64_t mib = FreeHugeMib();
  if (mib >= kMinHugeMib) return true;
  spdlog::warn(
      "memory: {} MiB of hugepages are free, so ordinary pages are used and forwarding is slower; reserve some: "
      "echo 512 > /proc/sys/vm/nr_hugepages",
      mib);
  return false;
}

thread_local std::vector<std::string>* t_capture = nullptr;

using ErrorWatch = std::function<void(std::string_view)>;
std::atomic<const ErrorWatch*> g_error_watch{nullptr};

// EAL writes to a stdio stream; its lines become ours, one by one.
ssize_t WriteLog(void*, const char* text, size_t size) {
  std::string_view line(text, size);
  while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) line.remove_suffix(1);
  const ErrorWatch* watch = g_error_watch.load(std::memory_order_acquire);
  if (watch && rte_log_cur_msg_loglevel() <= static_cast<int>(RTE_LOG_ERR)) (*watch)(line);
  if (t_capture && rte_log_cur_msg_loglevel() <= static_cast<int>(RTE_LOG_WARNING)) {
    if (!line.empty()) t_capture->emplace_back(line);
    spdlog::debug("dpdk: {}", line);
    return static_cast<ssize_t>(size);
  }
  switch (rte_log_cur_msg_loglevel()) {
    case RTE_LOG_EMERG:
    case RTE_LOG_ALERT:
    case RTE_LOG_CRIT:
    case RTE_LOG_ERR:
      spdlog::error("dpdk: {}", line);
      break;
    case RTE_LOG_WARNING:
      spdlog::warn("dpdk: {}", line);
      break;
    default:
      spdlog::debug("dpdk: {}", line);
  }
  return static_cast<ssize_t>(size);
}

void RouteLogs() {
  cookie_io_functions_t functions{};
  functions.write = WriteLog;
  FILE* stream = fopencookie(nullptr, "w", functions);
  if (!stream) return;  // EAL keeps its own stream
  setvbuf(stream, nullptr, _IOLBF, 512);
  rte_openlog_stream(stream);
}

}  // namespace

CaptureDpdkLog::CaptureDpdkLog() : outer_(std::exchange(t_capture, &lines_)) {}
CaptureDpdkLog::~CaptureDpdkLog() {
  t_capture = outer_;
}

std::string CaptureDpdkLog::text() const {
  constexpr size_t kKept = 3;
  const size_t first = lines_.size() > kKept ? lines_.size() - kKept : 0;
  return absl::StrJoin(lines_.begin() + static_cast<ptrdiff_t>(first), lines_.end(), "; ");
}

void WatchDpdkErrors(ErrorWatch watch) {
  g_error_watch.store(new ErrorWatch(std::move(watch)), std::memory_order_release);  // for as long as DPDK may speak
}

std::mutex& EalHotplugMutex() {
  static std::mutex mutex;
  return mutex;
}

bool EalHasHugepages() {
  return g_hugepages;
}

absl::Status InitEal(const EalOptions& options) {
  g_hugepages = WantHugepages(options.memory);
  // Every CPU we may use, for the control thread; EAL would otherwise pin it.
  std::vector<std::string> lcores = {absl::StrCat("0@(0-", sysconf(_SC_NPROCESSORS_CONF) - 1, ")")};
  for (size_t i = 0; i < options.poller_cpus.size(); ++i)
    lcores.push_back(absl::StrCat(i + 1, "@(", options.poller_cpus[i], ")"));
  std::vector<std::string> args = {"everportd",      "--no-telemetry", "--main-lcore=0",
                                   "--iova-mode=va", "--lcores",       absl::StrJoin(lcores, ",")};
  // Devices are plugged in one by one, by uplinks: of those that EAL would take by itself only this one is allowed,
  // which cannot be there. Without a PCI bus EAL would complain.
  if (access("/sys/bus/pci/devices", R_OK) == 0) {
    args.insert(args.end(), {"-a", "ffff:ff:1f.7"});
  } else {
    args.emplace_back("--no-pci");
  }
  // Neither leaves files behind or sees another DPDK process.
  if (g_hugepages) {
    args.emplace_back("--in-memory");
  } else {
    args.insert(args.end(), {"--no-huge", "--no-shconf", "--file-prefix=everport", "-m", absl::StrCat(OrdinaryMib())});
  }
  // EAL warns of every hugepage size that has no pages, and of such things; its errors are what tells.
  if (spdlog::get_level() > spdlog::level::debug) args.emplace_back("--log-level=lib.eal:error");
  RouteLogs();
  rte_log_set_global_level(spdlog::get_level() <= spdlog::level::debug ? RTE_LOG_INFO : RTE_LOG_WARNING);
  std::vector<char*> argv;
  argv.reserve(args.size());
  for (std::string& arg : args) argv.push_back(arg.data());
  if (rte_eal_init(static_cast<int>(argv.size()), argv.data()) < 0) {
    return absl::UnavailableError(
        absl::StrCat("DPDK: EAL did not start (", rte_strerror(rte_errno), ") with ", absl::StrJoin(args, " "),
                     "; see the dpdk lines above, or set memory = \"ordinary\" if hugepages are the trouble"));
  }
  RouteBpfLogs();
  return absl::OkStatus();
}

}  // namespace everport
