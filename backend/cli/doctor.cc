#include "backend/cli/doctor.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace everport::cli {
namespace {

bool UsesUplink(const DoctorFacts& facts, UplinkKind kind) {
  for (const DoctorPort& port : facts.ports) {
    for (const UplinkConfig& uplink : port.config.uplinks) {
      if (uplink.kind == kind) return true;
    }
  }
  return false;
}

// "HugePages_Total:     512" of /proc/meminfo; -1 if there is no such line.
int64_t MemInfo(const std::string& text, const std::string& key) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<std::string> words = absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    int64_t value = 0;
    if (words.size() >= 2 && words[0] == key + ":" && absl::SimpleAtoi(words[1], &value)) return value;
  }
  return -1;
}

// NUMA nodes with no hugepage of any size, while there are some elsewhere.
std::vector<std::string> NodesWithoutHugepages(const HostRoot& root) {
  const std::string base = "/sys/devices/system/node";
  std::vector<std::string> nodes;
  for (const std::string& node : root.List(base)) {
    int64_t number = 0, total = 0;
    if (node.rfind("node", 0) != 0 || !absl::SimpleAtoi(node.substr(4), &number)) continue;
    const std::string folder = absl::StrCat(base, "/", node, "/hugepages");
    for (const std::string& size : root.List(folder)) {
      int64_t pages = 0;
      const auto text = root.Read(absl::StrCat(folder, "/", size, "/nr_hugepages"));
      if (text && absl::SimpleAtoi(*text, &pages)) total += pages;
    }
    if (total == 0) nodes.push_back(node);
  }
  return nodes;
}

void ExamineHugepages(const DoctorFacts& facts, std::vector<Finding>& findings) {
  if (facts.daemon && facts.daemon->memory == DaemonConfig::Memory::kOrdinary) {
    findings.push_back({Level::kOk, "hugepages", "not used: memory = \"ordinary\""});
    return;
  }
  const bool demanded = facts.daemon && facts.daemon->memory == DaemonConfig::Memory::kHugepages;
  const Level missing = demanded ? Level::kFail : Level::kWarn;
  const std::string meminfo = facts.root.Read("/proc/meminfo").value_or("");
  const int64_t total = MemInfo(meminfo, "HugePages_Total"), free = MemInfo(meminfo, "HugePages_Free");
  const int64_t size_kib = MemInfo(meminfo, "Hugepagesize");
  if (total <= 0) {
    findings.push_back({missing, "hugepages",
                        "none: packets go through ordinary pages, which is slower; write 512 to "
                        "/proc/sys/vm/nr_hugepages, then restart everportd"});
    return;
  }
  // everportd needs no hugetlbfs (EAL's --in-memory).
  findings.push_back({Level::kOk, "hugepages", absl::StrCat(total, " of ", size_kib / 1024, " MiB, ", free, " free")});
  for (const std::string& node : NodesWithoutHugepages(facts.root)) {
    findings.push_back({Level::kWarn, "hugepages",
                        absl::StrCat("none on ", node,
                                     ": its guests are served from another node; write to /sys/devices/"
                                     "system/node/",
                                     node, "/hugepages/hugepages-2048kB/nr_hugepages")});
  }
}

// Problems of the keeper, of the API over TCP and of uplinks have findings of their own.
bool SaidElsewhere(const DoctorFacts& facts, const std::string& problem) {
  if (absl::StartsWith(problem, "keeper: ") || absl::StartsWith(problem, kListenProblem)) return true;
  for (const DoctorPort& port : facts.ports) {  // by its place, as what it says may have changed since
    for (size_t i = 0; i < port.uplink_errors.size(); ++i) {
      const std::string uplink = absl::StrCat("port ", port.config.name, ": uplink ", i);
      const bool named = absl::StartsWith(problem, uplink + ": ") || absl::StartsWith(problem, uplink + ", ");
      if (named && !port.uplink_errors[i].empty()) return true;
    }
  }
  return false;
}

}  // namespace

void ExamineDaemon(const DoctorFacts& facts, std::vector<Finding>& findings) {
  if (!facts.health) {
    findings.push_back({Level::kFail, "everportd", facts.api_error});
    return;
  }
  findings.push_back(facts.health->ready ? Finding{Level::kOk, "everportd", "answers and is ready"}
                                         : Finding{Level::kFail, "everportd",
                                                   "answers, but is not ready; see what follows and its log"});
  const std::string& keeper = facts.health->keeper;
  if (keeper == "connected") {
    findings.push_back({Level::kOk, "keeper", "connected"});
  } else if (keeper == "off") {
    findings.push_back({Level::kWarn, "keeper",
                        "off: guests lose their link whenever the daemon goes; set keeper = true in [daemon]"});
  } else {
    const char* mend = keeper.find(';') == std::string::npos ? "; start it: systemctl start everport-keeper" : "";
    findings.push_back({Level::kFail, "keeper", absl::StrCat(keeper.empty() ? "not connected" : keeper, mend)});
  }
  if (facts.health->libvirt == "connected") findings.push_back({Level::kOk, "libvirt", "connected"});
  for (const std::string& problem : facts.health->problems) {
    if (SaidElsewhere(facts, problem)) continue;
    const auto about = [&](absl::string_view label) { return absl::StartsWith(problem, label); };
    const absl::string_view config = "configuration: ", libvirt = "libvirt: ";
    const char* const object = about(config) ? "configuration" : about(libvirt) ? "libvirt" : "everportd";
    const size_t label = about(config) ? config.size() : about(libvirt) ? libvirt.size() : 0;
    findings.push_back({Level::kWarn, object, problem.substr(label)});
  }
}

void ExamineHost(const DoctorFacts& facts, std::vector<Finding>& findings) {
  ExamineHugepages(facts, findings);
  if (UsesUplink(facts, UplinkKind::kTap)) {
    findings.push_back(facts.root.Exists("/dev/net/tun")
                           ? Finding{Level::kOk, "tap", "/dev/net/tun is there"}
                           : Finding{Level::kFail, "tap", "/dev/net/tun is missing; run: modprobe tun"});
  }
  if (UsesUplink(facts, UplinkKind::kVirtioUser)) {
    findings.push_back(
        facts.root.Exists("/dev/vhost-net")
            ? Finding{Level::kOk, "virtio-user", "/dev/vhost-net is there"}
            : Finding{Level::kFail, "virtio-user", "/dev/vhost-net is missing; run: modprobe vhost_net"});
  }
  if (UsesUplink(facts, UplinkKind::kAfXdp)) {
    // The kernel lists a protocol XDP when it has AF_XDP sockets (CONFIG_XDP_SOCKETS).
    const bool xdp = facts.root.Read("/proc/net/protocols").value_or("").find("\nXDP ") != std::string::npos;
    findings.push_back(xdp ? Finding{Level::kOk, "af_xdp", "the kernel has AF_XDP sockets"}
                           : Finding{Level::kFail, "af_xdp",
                                     "the kernel has no AF_XDP sockets; use one with CONFIG_XDP_SOCKETS, or kind = "
                                     "\"af_packet\""});
  }
}

std::vector<Finding> Examine(const DoctorFacts& facts) {
  std::vector<Finding> findings;
  ExamineDaemon(facts, findings);
  if (!facts.health && !facts.daemon) {
    findings.push_back(
        {Level::kWarn, "ports",
         "unknown without the daemon; give --config /etc/everport/everport.toml to look at them all the same"});
  }
  ExamineListener(facts, findings);
  ExamineHost(facts, findings);
  for (const DoctorPort& port : facts.ports) {
    ExamineSocket(facts, port, findings);
    ExamineQemu(facts, port, findings);
    ExaminePath(facts, port, findings);
    ExaminePostcopy(facts, port, findings);
    ExamineUplinks(facts, port, findings);
  }
  return findings;
}

}  // namespace everport::cli
