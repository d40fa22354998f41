// What doctor reads from the command line of a guest's QEMU.
#include <algorithm>
#include <boost/json/parse.hpp>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "backend/cli/doctor.h"

namespace everport::cli {
namespace {

// An argument in either of QEMU's forms: "type,key=value,flag" (the type under ""; a flag is "on"), or JSON.
// "a,,b" in a value stands for "a,b".
std::map<std::string, std::string> ParseArgument(const std::string& text) {
  std::map<std::string, std::string> keys;
  boost::json::error_code error;
  const boost::json::value value = boost::json::parse(text, error);
  if (!error && value.is_object()) {
    for (const auto& [key, member] : value.get_object()) {
      std::string& out = keys[std::string(key == "qom-type" || key == "backend" ? "" : key)];
      if (const auto* string = member.if_string()) out = std::string(string->data(), string->size());
      if (const auto* flag = member.if_bool()) out = *flag ? "on" : "off";
    }
    return keys;
  }
  const std::string guarded = absl::StrJoin(absl::StrSplit(text, ",,"), "\x01");
  bool first = true;
  for (absl::string_view item : absl::StrSplit(guarded, ',')) {
    std::pair<std::string, std::string> pair = absl::StrSplit(item, absl::MaxSplits('=', 1));
    std::replace(pair.second.begin(), pair.second.end(), '\x01', ',');
    if (absl::StrContains(item, "=")) {
      keys[pair.first] = pair.second;
    } else {
      keys[first ? "" : pair.first] = first ? pair.first : "on";
    }
    first = false;
  }
  return keys;
}

// The arguments of every option of this name; QEMU takes one dash or two.
std::vector<std::string> OptionArguments(const Process& process, const std::string& option) {
  std::vector<std::string> values;
  for (size_t i = 1; i + 1 < process.args.size(); ++i) {
    if (process.args[i] == "-" + option || process.args[i] == "--" + option) values.push_back(process.args[i + 1]);
  }
  return values;
}

bool IsOn(const std::string& value) {
  return value == "on" || value == "yes" || value == "true" || value == "y";
}

struct MemoryBackend {
  std::string id;
  bool shared = false;
};

std::vector<MemoryBackend> MemoryBackends(const Process& process) {
  std::vector<MemoryBackend> backends;
  for (const std::string& argument : OptionArguments(process, "object")) {
    auto keys = ParseArgument(argument);
    if (!absl::StartsWith(keys[""], "memory-backend-")) continue;
    // QEMU shares a memfd unless it is told not to; the other kinds only when told.
    const bool shared = keys["share"].empty() ? keys[""] == "memory-backend-memfd" : IsOn(keys["share"]);
    backends.push_back({keys["id"], shared});
  }
  return backends;
}

// Ids of the backends that are the guest's RAM: -numa node,memdev=ID, -machine memory-backend=ID.
std::vector<std::string> RamIds(const Process& process) {
  std::vector<std::string> ids;
  for (const auto& [option, key] :
       {std::pair("numa", "memdev"), {"machine", "memory-backend"}, {"M", "memory-backend"}}) {
    for (const std::string& argument : OptionArguments(process, option)) {
      if (const std::string id = ParseArgument(argument)[key]; !id.empty()) ids.push_back(id);
    }
  }
  return ids;
}

constexpr char kShareMend[] =
    "; with QEMU: -object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem, with libvirt: "
    "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>";

Finding ExamineMemory(const std::string& object, const Process& process) {
  const auto backends = MemoryBackends(process);
  const auto ids = RamIds(process);
  if (ids.empty()) {
    return {Level::kFail, object,
            absl::StrCat("the guest's memory is private to QEMU, so nothing can reach its rings", kShareMend)};
  }
  for (const std::string& id : ids) {
    const auto backend =
        std::find_if(backends.begin(), backends.end(), [&](const MemoryBackend& b) { return b.id == id; });
    if (backend == backends.end() || !backend->shared) {
      return {
          Level::kFail, object,
          absl::StrCat("the guest's memory \"", id, "\" is not share=on, so nothing can reach its rings", kShareMend)};
    }
  }
  return {Level::kOk, object, "the guest's memory is shared"};
}

bool UsesKvm(const Process& process) {
  for (const std::string& argument : process.args) {
    if (argument == "-enable-kvm" || argument == "--enable-kvm") return true;
  }
  for (const std::string& argument : OptionArguments(process, "accel")) {
    auto keys = ParseArgument(argument);
    if (absl::StartsWith(keys[""], "kvm") || keys["accel"] == "kvm") return true;
  }
  for (const char* option : {"machine", "M"}) {
    for (const std::string& argument : OptionArguments(process, option)) {
      if (absl::StartsWith(ParseArgument(argument)["accel"], "kvm")) return true;
    }
  }
  return false;
}

// "10.0" and 10 of "QEMU emulator version 10.0.13 (Debian …)"; 0 if it says nothing of the kind.
std::pair<std::string, int> Version(const std::string& text) {
  const std::string mark = "emulator version ";
  const size_t at = text.find(mark);
  if (at == std::string::npos) return {"", 0};
  const size_t begin = at + mark.size();
  const std::string version = text.substr(begin, text.find_first_not_of("0123456789.", begin) - begin);
  int major = 0;
  const std::vector<std::string> parts = absl::StrSplit(version, '.');
  return absl::SimpleAtoi(parts[0], &major) ? std::pair(version, major) : std::pair(std::string(), 0);
}

Finding ExamineVersion(const DoctorFacts& facts, const std::string& object, const Process& process) {
  const auto text = facts.run_version(process.exe);
  const auto [version, major] = Version(text.ok() ? *text : "");
  if (major == 0) {
    return {Level::kWarn, object,
            absl::StrCat("QEMU (pid ", process.pid, ") does not tell its version: ",
                         text.ok() ? "unexpected words" : std::string(text.status().message()),
                         "; see that it is 7.2 or later, and 8 or later without KVM")};
  }
  if (major < 8 && !UsesKvm(process)) {
    return {Level::kWarn, object,
            absl::StrCat("QEMU ", version,
                         " without KVM crashes when a vhost-user NIC comes up; use KVM, or QEMU 10.0.13 or later")};
  }
  return {Level::kOk, object, absl::StrCat("QEMU ", version, " (pid ", process.pid, ")")};
}

}  // namespace

std::optional<QemuProcess> FindQemu(const HostRoot& root, const std::string& socket) {
  for (Process& process : Processes(root)) {
    for (const std::string& argument : OptionArguments(process, "chardev")) {
      if (ParseArgument(argument)["path"] == socket) return QemuProcess{std::move(process), argument};
    }
  }
  return std::nullopt;
}

void ExamineQemu(const DoctorFacts& facts, const DoctorPort& port, std::vector<Finding>& findings) {
  const std::string object = absl::StrCat("port ", port.config.name);
  const auto qemu = FindQemu(facts.root, port.config.socket);
  if (!qemu) return;  // the socket's finding has said it, or QEMU is in a namespace that we do not see
  if (!IsOn(ParseArgument(qemu->chardev)["server"])) {
    findings.push_back({Level::kFail, object,
                        absl::StrCat("QEMU (pid ", qemu->process.pid, ") is the client of ", port.config.socket,
                                     "; add server=on to its chardev (libvirt: mode='server')")});
  }
  findings.push_back(ExamineMemory(object, qemu->process));
  findings.push_back(ExamineVersion(facts, object, qemu->process));
}

}  // namespace everport::cli
