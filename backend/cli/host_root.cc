#include "backend/cli/host_root.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace everport::cli {

std::optional<std::string> HostRoot::Read(const std::string& path) const {
  std::ifstream file(prefix_ + path, std::ios::binary);
  if (!file) return std::nullopt;
  std::string text(std::istreambuf_iterator<char>(file), {});
  return file.bad() ? std::nullopt : std::optional(std::move(text));
}

std::optional<struct stat> HostRoot::Stat(const std::string& path) const {
  struct stat st {};
  if (::stat((prefix_ + path).c_str(), &st) != 0) return std::nullopt;
  return st;
}

std::string HostRoot::LinkName(const std::string& path) const {
  std::error_code error;
  return std::filesystem::read_symlink(prefix_ + path, error).filename().string();
}

std::vector<std::string> HostRoot::List(const std::string& folder) const {
  std::vector<std::string> names;
  std::error_code error;
  std::filesystem::directory_iterator entry(prefix_ + folder, error), end;
  for (; !error && entry != end; entry.increment(error)) names.push_back(entry->path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<Process> Processes(const HostRoot& root) {
  std::vector<Process> processes;
  for (const std::string& name : root.List("/proc")) {
    Process process;
    if (!absl::SimpleAtoi(name, &process.pid)) continue;
    const auto cmdline = root.Read(absl::StrCat("/proc/", name, "/cmdline"));
    if (!cmdline || cmdline->empty()) continue;
    process.args = absl::StrSplit(absl::StripSuffix(*cmdline, absl::string_view("\0", 1)), '\0');
    process.exe = absl::StrCat("/proc/", name, "/exe");
    processes.push_back(std::move(process));
  }
  return processes;
}

std::optional<Credentials> CredentialsOf(const HostRoot& root, const std::string& comm) {
  for (const std::string& pid : root.List("/proc")) {
    const auto name = root.Read(absl::StrCat("/proc/", pid, "/comm"));
    if (!name || absl::StripAsciiWhitespace(*name) != comm) continue;
    const auto status = root.Read(absl::StrCat("/proc/", pid, "/status"));
    if (!status) continue;
    Credentials credentials;
    // proc(5): "Uid:" and "Gid:" give real, effective, saved and file-system ids; "Groups:" the others, "CapEff:" a
    // mask in hex.
    for (absl::string_view line : absl::StrSplit(*status, '\n')) {
      const std::vector<std::string> words = absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
      unsigned id = 0;
      if (words.size() > 2 && words[0] == "Uid:" && absl::SimpleAtoi(words[2], &id)) credentials.uid = id;
      if (words.size() > 2 && words[0] == "Gid:" && absl::SimpleAtoi(words[2], &id)) credentials.gids.push_back(id);
      if (words.size() > 1 && words[0] == "CapEff:") (void)absl::SimpleHexAtoi(words[1], &credentials.capabilities);
      if (words.empty() || words[0] != "Groups:") continue;
      for (size_t i = 1; i < words.size(); ++i) {
        if (absl::SimpleAtoi(words[i], &id)) credentials.gids.push_back(id);
      }
    }
    return credentials;
  }
  return std::nullopt;
}

std::vector<std::string> ListeningSockets(const HostRoot& root) {
  constexpr unsigned kAcceptsConnections = 0x10000;  // __SO_ACCEPTCON, linux/net.h
  std::vector<std::string> paths;
  const std::string table = root.Read("/proc/net/unix").value_or("");
  for (absl::string_view line : absl::StrSplit(table, '\n')) {
    // "Num RefCount Protocol Flags Type St Inode Path"; a path may have spaces.
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    uint32_t flags = 0;
    if (words.size() < 8 || !absl::SimpleHexAtoi(words[3], &flags) || !(flags & kAcceptsConnections)) continue;
    paths.emplace_back(words[7].data(), static_cast<size_t>(line.data() + line.size() - words[7].data()));
  }
  return paths;
}

}  // namespace everport::cli
