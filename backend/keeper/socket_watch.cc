#include "backend/keeper/socket_watch.h"

#include <sys/inotify.h>
#include <unistd.h>

#include <utility>
#include <vector>

namespace everport {
namespace {

std::pair<std::string, std::string> SplitPath(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return {".", path};
  return {slash == 0 ? "/" : path.substr(0, slash), path.substr(slash + 1)};
}

}  // namespace

SocketWatch::SocketWatch(boost::asio::io_context& io)
    : inotify_(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC)), watcher_(io, inotify_.get(), [this] { Read(); }) {
  watcher_.WantRead(true);
}

bool SocketWatch::Add(const std::string& folder) {
  // Of a folder that is watched already this gives the same number again; of one that was replaced, a new one.
  folders_[folder].wd = ::inotify_add_watch(inotify_.get(), folder.c_str(), IN_CREATE | IN_MOVED_TO | IN_ONLYDIR);
  return folders_[folder].wd >= 0;
}

bool SocketWatch::Watch(const std::string& path, std::function<void()> appeared) {
  const auto [folder, name] = SplitPath(path);
  folders_[folder].names[name] = std::move(appeared);
  return Add(folder);
}

bool SocketWatch::Renew(const std::string& path) {
  return Add(SplitPath(path).first);
}

void SocketWatch::Forget(const std::string& path) {
  const auto [folder, name] = SplitPath(path);
  const auto found = folders_.find(folder);
  if (found == folders_.end()) return;
  found->second.names.erase(name);
  if (!found->second.names.empty()) return;
  if (found->second.wd >= 0) ::inotify_rm_watch(inotify_.get(), found->second.wd);
  folders_.erase(found);
}

void SocketWatch::Read() {
  alignas(inotify_event) char buffer[4096];
  std::vector<std::function<void()>> calls;  // made last: they may change folders_
  for (;;) {
    const ssize_t got = ::read(inotify_.get(), buffer, sizeof buffer);
    if (got <= 0) break;
    for (const char* at = buffer; at < buffer + got;) {
      const auto* event = reinterpret_cast<const inotify_event*>(at);
      at += sizeof *event + event->len;
      for (auto& [path, folder] : folders_) {
        if (event->mask & IN_Q_OVERFLOW)
          for (const auto& [name, call] : folder.names) calls.push_back(call);
        if (folder.wd != event->wd) continue;
        if (event->mask & IN_IGNORED) folder.wd = -1;  // the folder is gone
        if (event->len == 0) continue;
        const auto found = folder.names.find(event->name);
        if (found != folder.names.end()) calls.push_back(found->second);
      }
    }
  }
  for (const auto& call : calls) call();
}

}  // namespace everport
