#include "numa/topology.h"

#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "numa/cpu_list.h"

namespace everport {
namespace {

namespace fs = std::filesystem;

bool Contains(const std::vector<unsigned>& cpus, unsigned cpu) {
  return std::find(cpus.begin(), cpus.end(), cpu) != cpus.end();
}

absl::StatusOr<std::vector<unsigned>> ReadCpuListFile(const fs::path& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat(path.string(), ": cannot be read; is sysfs mounted on /sys?"));
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  auto cpus = ParseCpuList(text);
  if (!cpus.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": ", std::string(cpus.status().message())));
  }
  return cpus;
}

// The ids of <folder>/nodeN, ascending; none if there is no such folder.
std::vector<int> NodeIds(const fs::path& folder) {
  std::vector<int> ids;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    int id = 0;
    if (absl::StartsWith(name, "node") && name.size() > 4 && absl::ascii_isdigit(name[4]) &&
        absl::SimpleAtoi(name.substr(4), &id)) {
      ids.push_back(id);
    }
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

}  // namespace

int Topology::NodeOfCpu(unsigned cpu) const {
  for (const NumaNode& node : nodes) {
    if (Contains(node.cpus, cpu)) return node.id;
  }
  return -1;
}

absl::StatusOr<Topology> ReadTopology(const std::string& root) {
  const fs::path system = root + "/sys/devices/system";
  const auto online = ReadCpuListFile(system / "cpu/online");
  if (!online.ok()) return online.status();
  Topology topology;
  for (const int id : NodeIds(system / "node")) {
    const auto cpus = ReadCpuListFile(system / "node" / absl::StrCat("node", id) / "cpulist");
    if (!cpus.ok()) return cpus.status();
    NumaNode node{.id = id, .cpus = {}};
    std::copy_if(cpus->begin(), cpus->end(), std::back_inserter(node.cpus),
                 [&](unsigned cpu) { return Contains(*online, cpu); });
    topology.nodes.push_back(std::move(node));
  }
  if (topology.nodes.empty()) topology.nodes.push_back({.id = 0, .cpus = *online});
  return topology;
}

std::vector<unsigned> AllowedCpus() {
  constexpr size_t kCpus = kMaxCpu + 1;
  std::vector<unsigned> allowed;
  cpu_set_t* const set = CPU_ALLOC(kCpus);
  const size_t size = CPU_ALLOC_SIZE(kCpus);
  CPU_ZERO_S(size, set);
  if (::sched_getaffinity(0, size, set) == 0) {
    for (unsigned cpu = 0; cpu < kCpus; ++cpu) {
      if (CPU_ISSET_S(cpu, size, set)) allowed.push_back(cpu);
    }
  }
  CPU_FREE(set);
  return allowed;
}

absl::StatusOr<std::vector<PollerCpus>> AutoPollers(const Topology& topology, const std::vector<unsigned>& allowed) {
  std::vector<PollerCpus> pollers;
  for (const NumaNode& node : topology.nodes) {
    PollerCpus poller{.cpus = {}, .node = node.id};
    std::copy_if(node.cpus.begin(), node.cpus.end(), std::back_inserter(poller.cpus),
                 [&](unsigned cpu) { return Contains(allowed, cpu); });
    if (!poller.cpus.empty()) pollers.push_back(std::move(poller));
  }
  if (pollers.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("pollers: none of the allowed CPUs (", FormatCpuList(allowed),
                                                      ") is online; widen the service's CPU affinity or cpuset"));
  }
  return pollers;
}

absl::StatusOr<std::vector<PollerCpus>> PinnedPollers(const Topology& topology, const std::vector<unsigned>& allowed,
                                                      const std::vector<unsigned>& wanted) {
  std::vector<PollerCpus> pollers;
  std::vector<unsigned> online;
  for (const NumaNode& node : topology.nodes) online.insert(online.end(), node.cpus.begin(), node.cpus.end());
  const auto refuse = [](unsigned cpu, const std::string& why) {
    return absl::InvalidArgumentError(absl::StrCat("pollers: CPU ", cpu, " ", why));
  };
  for (const unsigned cpu : wanted) {
    const int node = topology.NodeOfCpu(cpu);
    if (node < 0) return refuse(cpu, absl::StrCat("is not online; choose among ", FormatCpuList(online)));
    if (!Contains(allowed, cpu)) {
      return refuse(cpu, absl::StrCat("is not allowed to this process; choose among ", FormatCpuList(allowed),
                                      ", or widen the service's CPU affinity or cpuset"));
    }
    for (const PollerCpus& earlier : pollers) {
      if (earlier.cpus.front() == cpu) return refuse(cpu, "is listed twice; a poller has a CPU for itself");
    }
    pollers.push_back({.cpus = {cpu}, .node = node});
  }
  return pollers;
}

}  // namespace everport
