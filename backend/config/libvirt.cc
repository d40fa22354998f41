// [libvirt]: ports that come and go with libvirt's domains.
#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "backend/config/check.h"
#include "backend/config/reader.h"

namespace everport {
namespace config {
namespace {

// Those that no two ports have in common.
constexpr absl::string_view kDistinct[] = {"{port}", "{mac}"};

bool HoldsAny(absl::string_view text, absl::Span<const absl::string_view> words) {
  return std::any_of(words.begin(), words.end(), [&](absl::string_view word) { return absl::StrContains(text, word); });
}

std::string PlaceholderFault(const UplinkConfig& uplink) {
  if (uplink.kind == UplinkKind::kPort) {
    return "a wire has two ports, and those of domains come one by one; use another kind, or write the ports down";
  }
  const std::string device =
      absl::StrReplaceAll(uplink.device, {{"{port}", ""}, {"{domain}", ""}, {"{mac}", ""}, {"{n}", ""}});
  if (uplink.kind != UplinkKind::kVdev && device.find_first_of("{}") != std::string::npos) {
    return absl::StrCat(Quote(uplink.device),
                        " holds braces; what stands for something is {port}, {domain}, {mac}, {n}");
  }
  const bool distinct = HoldsAny(uplink.device, kDistinct) ||
                        (absl::StrContains(uplink.device, "{domain}") && absl::StrContains(uplink.device, "{n}"));
  if (distinct) return "";
  return absl::StrCat(Quote(uplink.device),
                      " is one device, and each interface needs its own; put {port} or {mac} into it, for example "
                      "\"ep-{port}\"");
}

// A port as one may come to be: what is wrong with it is wrong with every one.
PortConfig Sample(const LibvirtConfig& libvirt) {
  PortConfig port;
  port.name = "p";
  port.socket = "/p.sock";
  port.mtu = libvirt.mtu;
  port.contract = libvirt.contract;
  auto uplinks = FillUplinks(libvirt.uplinks, {.port = "p", .domain = "d", .mac = "52:54:00:00:00:01", .number = 0});
  if (uplinks.ok()) port.uplinks = *std::move(uplinks);
  return port;
}

void CheckFolder(const Table& table, LibvirtConfig& libvirt) {
  const std::string path = table.PathOf("socket_folder");
  if (!table.Has("socket_folder")) {
    return table.source().Fail(
        path, "is missing; name the folder in which the sockets of libvirt's vhostuser interfaces lie");
  }
  if (const std::string fault = AbsolutePathFault(libvirt.socket_folder); !fault.empty())
    return table.source().Fail(path, fault);
  while (libvirt.socket_folder.size() > 1 && libvirt.socket_folder.back() == '/') libvirt.socket_folder.pop_back();
  const std::string around = libvirt.socket_folder + "/";
  if (absl::StrContains(around, "//") || absl::StrContains(around, "/./") || absl::StrContains(around, "/../")) {
    table.source().Fail(path, absl::StrCat(Quote(libvirt.socket_folder),
                                           " is not written the plain way; take out '//', '.' and '..': it is "
                                           "compared with what the domains say"));
  }
}

}  // namespace

LibvirtConfig ReadLibvirt(const Table& table, const ContractSet* contracts) {
  table.AllowOnly({"uri", "socket_folder", "contract", "mtu", "failback_delay_ms", "uplink"});
  LibvirtConfig libvirt;
  table.Read("uri", libvirt.uri);
  table.Read("socket_folder", libvirt.socket_folder);
  table.Read("contract", libvirt.contract);
  table.Read("mtu", libvirt.mtu, kMtu);
  table.Read("failback_delay_ms", libvirt.failback_delay_ms, kFailbackDelayMs);
  libvirt.uplinks = ReadUplinks(table, "[[libvirt.uplink]]");
  if (libvirt.uri.empty() || libvirt.uri.find('\0') != std::string::npos) {
    table.source().Fail(table.PathOf("uri"),
                        absl::StrCat(Quote(libvirt.uri), " is not libvirt's URI; write it as qemu:///system"));
  }
  CheckFolder(table, libvirt);
  for (size_t i = 0; i < libvirt.uplinks.size(); ++i) {
    const std::string path = Join(Join(table.PathOf("uplink"), i), "device");
    if (table.source().Failed(Join(table.PathOf("uplink"), i))) continue;
    if (const std::string fault = PlaceholderFault(libvirt.uplinks[i]); !fault.empty())
      table.source().Fail(path, fault);
  }
  PortConfig sample = Sample(libvirt);
  std::vector<Problem> problems = FindProblems(sample, contracts);
  for (Problem& problem : problems) {
    problem.text = absl::StrReplaceAll(problem.text, {{"[[port.uplink]]", "[[libvirt.uplink]]"}});
  }
  if (!table.source().Failed(table.PathOf("uplink"))) table.source().FailAll("libvirt", problems);
  return libvirt;
}

}  // namespace config

absl::StatusOr<std::vector<UplinkConfig>> FillUplinks(const std::vector<UplinkConfig>& templates,
                                                      const UplinkNames& names) {
  const std::string mac = absl::StrReplaceAll(names.mac, {{":", ""}});
  std::vector<UplinkConfig> uplinks = templates;
  for (UplinkConfig& uplink : uplinks) {
    for (std::string* text : {&uplink.device, &uplink.bridge}) {
      // It would else be anything: a path, arguments of a DPDK driver.
      if (absl::StrContains(*text, "{domain}") && !config::ValidName(names.domain)) {
        return absl::FailedPreconditionError(
            absl::StrCat("the domain's name ", config::Quote(names.domain),
                         " cannot stand for {domain} in an uplink; use {port} or {mac} there, or rename the domain"));
      }
      *text = absl::StrReplaceAll(
          *text,
          {{"{port}", names.port}, {"{domain}", names.domain}, {"{mac}", mac}, {"{n}", absl::StrCat(names.number)}});
    }
  }
  return uplinks;
}

}  // namespace everport
