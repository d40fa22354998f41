#include <fcntl.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <cerrno>

#include "absl/strings/ascii.h"
#include "backend/base/unique_fd.h"
#include "backend/config/check.h"
#include "backend/config/config.h"
#include "backend/config/reader.h"

namespace everport {
namespace config {
namespace {

constexpr size_t kMaxFile = 1 << 20;  // bytes
// toml++ recurses over the parts of a dotted key without a limit; this is one.
constexpr size_t kMaxLine = 4096;  // bytes
constexpr int kMaxDepth = 16;      // tables within tables; the deepest key has 3

// Turns a TOML tree into the JSON one that Table reads, noting each value's line (TOML has it on its key's).
class Converter {
 public:
  explicit Converter(Source& source) : source_(source) {}

  boost::json::value Convert(const toml::node& node, const std::string& path, int depth = 0) {
    if (node.source().begin.line > 0) source_.SetLine(path, node.source().begin.line);
    if (depth > kMaxDepth) {
      source_.Fail(path, "tables lie too deep within each other; the configuration has no such key");
      return nullptr;
    }
    switch (node.type()) {
      case toml::node_type::table:
        return ConvertTable(*node.as_table(), path, depth);
      case toml::node_type::array:
        return ConvertArray(*node.as_array(), path, depth);
      case toml::node_type::string:
        return boost::json::string(node.as_string()->get());
      case toml::node_type::integer:
        return node.as_integer()->get();
      case toml::node_type::floating_point:
        return node.as_floating_point()->get();
      case toml::node_type::boolean:
        return node.as_boolean()->get();
      case toml::node_type::date:
      case toml::node_type::time:
      case toml::node_type::date_time:
      case toml::node_type::none:
        break;
    }
    source_.Fail(path, "is a date or time, which no key wants; write a string, an integer, or true or false");
    return nullptr;
  }

 private:
  boost::json::value ConvertTable(const toml::table& table, const std::string& path, int depth) {
    boost::json::object object;
    for (auto&& [key, value] : table) {
      object[key.str()] = Convert(value, Join(path, View(key.str())), depth + 1);
    }
    return object;
  }

  boost::json::value ConvertArray(const toml::array& array, const std::string& path, int depth) {
    boost::json::array list;
    for (size_t i = 0; i < array.size(); ++i) list.push_back(Convert(array[i], Join(path, i), depth + 1));
    return list;
  }

  Source& source_;
};

void ReadPollers(const Table& table, std::vector<unsigned>& cpus) {
  const boost::json::value* value = table.Find("pollers");
  const std::string path = table.PathOf("pollers");
  constexpr absl::string_view kMend = "write \"auto\" or a list of CPU numbers, for example [2, 3]";
  if (!value || (value->is_string() && value->get_string() == "auto")) return;
  const auto* list = value->if_array();
  if (!list) return table.source().Fail(path, absl::StrCat("is ", Describe(*value), "; ", kMend));
  if (list->empty()) return table.source().Fail(path, absl::StrCat("the list is empty; ", kMend));
  for (size_t i = 0; i < list->size(); ++i) {
    const auto cpu = ReadInteger(table.source(), (*list)[i], Join(path, i), kCpu.min, kCpu.max);
    if (!cpu) continue;
    if (std::find(cpus.begin(), cpus.end(), *cpu) != cpus.end()) {
      table.source().Fail(Join(path, i), absl::StrCat("CPU ", *cpu, " is listed twice; a poller has a CPU for itself"));
    }
    cpus.push_back(static_cast<unsigned>(*cpu));
  }
}

void ReadMemory(const Table& table, DaemonConfig::Memory& memory) {
  std::string text = "auto";
  table.Read("memory", text);
  if (text == "auto") {
    memory = DaemonConfig::Memory::kAuto;
  } else if (text == "hugepages") {
    memory = DaemonConfig::Memory::kHugepages;
  } else if (text == "ordinary") {
    memory = DaemonConfig::Memory::kOrdinary;
  } else {
    table.source().Fail(table.PathOf("memory"),
                        absl::StrCat(Quote(text), " is not a kind of memory; use auto, hugepages or ordinary"));
  }
}

void CheckDaemon(const Table& table, const DaemonConfig& daemon) {
  const auto fail = [&](absl::string_view key, absl::string_view text) {
    table.source().Fail(table.PathOf(key), text);
  };
  if (!ValidName(daemon.name)) fail("name", absl::StrCat(Quote(daemon.name), " is not a daemon name; ", kNameMend));
  for (const auto& [key, path] : {std::pair{"run_dir", daemon.run_dir}, std::pair{"state_dir", daemon.state_dir}}) {
    if (const std::string fault = AbsolutePathFault(path); !fault.empty()) fail(key, fault);
  }
  constexpr size_t kMaxRunDir = kMaxSocketPath - absl::string_view("/keeper.sock").size();
  if (daemon.run_dir.size() > kMaxRunDir) {
    fail("run_dir", absl::StrCat("is ", daemon.run_dir.size(), " bytes long; unix sockets lie in it, so use at most ",
                                 kMaxRunDir));
  }
  constexpr absl::string_view kLevels[] = {"trace", "debug", "info", "warning", "error", "critical"};
  if (std::find(std::begin(kLevels), std::end(kLevels), daemon.log_level) == std::end(kLevels)) {
    fail("log_level", absl::StrCat(Quote(daemon.log_level),
                                   " is not a log level; use trace, debug, info, warning, error or critical"));
  }
}

DaemonConfig ReadDaemon(const Table& table) {
  table.AllowOnly({"name", "run_dir", "state_dir", "keeper", "pollers", "memory", "log_level", "idle", "listen"});
  DaemonConfig daemon;
  table.Read("name", daemon.name);
  table.Read("run_dir", daemon.run_dir);
  table.Read("state_dir", daemon.state_dir);
  table.Read("keeper", daemon.keeper);
  ReadPollers(table, daemon.poller_cpus);
  ReadMemory(table, daemon.memory);
  table.Read("log_level", daemon.log_level);
  if (const auto* object = table.TableAt("idle")) {
    const Table idle(table.source(), *object, table.PathOf("idle"));
    idle.AllowOnly({"max_sleep_us"});
    idle.Read("max_sleep_us", daemon.max_sleep_us, kMaxSleepUs);
  }
  if (const auto* object = table.TableAt("listen")) {
    daemon.listen = ReadListen(Table(table.source(), *object, table.PathOf("listen")));
  }
  CheckDaemon(table, daemon);
  return daemon;
}

// The keeper listens on one more socket per port, whose path is made of run_dir and the port's name.
void CheckKeeperSocket(Source& source, const DaemonConfig& daemon, const PortConfig& port, const std::string& path) {
  const size_t length = absl::StrCat(daemon.run_dir, "/keeper/", port.name, ".sock").size();
  if (!daemon.keeper || length <= kMaxSocketPath || source.Failed("daemon.run_dir")) return;
  source.Fail(Join(path, "name"),
              absl::StrCat("makes the path of its socket in run_dir ", length, " bytes long, more than ",
                           kMaxSocketPath, "; shorten the name or run_dir"));
}

void ReadPorts(const Table& root, Config& config) {
  Source& source = root.source();
  const bool contracts_known = !source.Failed("contract");  // else what a port says of one may follow from its fault
  std::vector<std::string> paths;  // of config.ports, which are those without a fault of their own
  size_t index = 0;
  for (const auto* object : root.TablesAt("port", "[[port]]")) {
    const std::string path = Join("port", index++);
    if (!object) continue;
    PortConfig port = ReadPort(Table(source, *object, path));
    source.FailAll(path, FindProblems(port, contracts_known ? &config.contracts : nullptr));
    CheckKeeperSocket(source, config.daemon, port, path);
    if (port.postcopy && !config.daemon.keeper) source.Fail(Join(path, "postcopy"), kPostcopyNeedsKeeper);
    if (source.Failed(path)) continue;
    config.ports.push_back(std::move(port));
    paths.push_back(path);
  }
  const auto refer = [&](size_t port, absl::string_view key) {
    return absl::StrCat(paths[port], " (line ", source.LineOf(absl::StrCat(paths[port], ".", key)), ")");
  };
  // A wire's other end may be a port with a fault.
  const auto unknown_peer = paths.size() == index ? UnknownPeer::kRefuse : UnknownPeer::kAllow;
  for (const auto& [port, problem] : FindSetProblems(config.ports, unknown_peer, refer)) {
    source.Fail(absl::StrCat(paths[port], ".", problem.key), problem.text, problem.code);
  }
}

absl::Status SyntaxError(const std::string& origin, size_t line, absl::string_view description) {
  std::string shown;
  for (const char c : description) shown += absl::ascii_iscntrl(c) ? '?' : c;
  return absl::InvalidArgumentError(absl::StrCat(origin, ":", line, ": not valid TOML: ", shown, "; correct the line"));
}

// 0, or the number of the first line that is longer than kMaxLine.
size_t OverlongLine(absl::string_view text) {
  size_t line = 1;
  for (size_t begin = 0; begin < text.size(); ++line) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    if (end - begin > kMaxLine) return line;
    begin = end + 1;
  }
  return 0;
}

absl::Status FileError(const std::string& path, int error, absl::string_view mend) {
  return absl::ErrnoToStatus(error, absl::StrCat(path, ": cannot read the configuration; ", mend));
}

}  // namespace
}  // namespace config

absl::StatusOr<Config> ParseConfig(std::string_view text, const std::string& origin) {
  if (text.size() > config::kMaxFile) {
    return absl::InvalidArgumentError(absl::StrCat(origin, ": larger than 1 MiB; is this the configuration file?"));
  }
  if (const size_t line = config::OverlongLine(config::View(text))) {
    return absl::InvalidArgumentError(
        absl::StrCat(origin, ":", line, ": the line is longer than ", config::kMaxLine, " bytes; break it up"));
  }
  config::Source source(origin);
  boost::json::value tree;
  try {
    const toml::table parsed = toml::parse(text);
    tree = config::Converter(source).Convert(parsed, "");
  } catch (const toml::parse_error& error) {
    return config::SyntaxError(origin, error.source().begin.line, config::View(error.description()));
  }
  const config::Table root(source, tree.as_object(), "");
  root.AllowOnly({"daemon", "contract", "port", "libvirt"});
  Config result;
  const boost::json::object* daemon = root.TableAt("daemon");
  result.daemon = config::ReadDaemon(config::Table(source, daemon ? *daemon : boost::json::object(), "daemon"));
  result.contracts = config::ReadContracts(root);
  config::ReadPorts(root, result);
  if (const auto* libvirt = root.TableAt("libvirt")) {
    const bool contracts_known = !source.Failed("contract");
    result.libvirt =
        config::ReadLibvirt(config::Table(source, *libvirt, "libvirt"), contracts_known ? &result.contracts : nullptr);
  }
  if (!source.ok()) return source.all();
  return result;
}

std::string FirstFault(const absl::Status& status) {
  const absl::string_view text = status.message();
  const auto more = std::count(text.begin(), text.end(), '\n');
  return absl::StrCat(text.substr(0, text.find('\n')),
                      more > 0 ? absl::StrCat(" (and ", more, " more: everportd --check lists all)") : "");
}

absl::StatusOr<Config> LoadConfig(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) {
    return config::FileError(path, errno,
                             errno == ENOENT ? "create it or give --config the right path" : "make it readable");
  }
  std::string text;
  char buffer[16384];
  while (text.size() <= config::kMaxFile) {
    const ssize_t got = ::read(fd.get(), buffer, sizeof buffer);
    if (got == 0) return ParseConfig(text, path);
    if (got > 0) text.append(buffer, static_cast<size_t>(got));
    if (got < 0 && errno != EINTR) return config::FileError(path, errno, "--config wants a readable file");
  }
  return ParseConfig(text, path);  // too large: says so
}

}  // namespace everport
