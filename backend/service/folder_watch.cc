#include "backend/service/folder_watch.h"

#include <sys/inotify.h>
#include <unistd.h>

#include <boost/asio/post.hpp>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace everport {

FolderWatch::FolderWatch(boost::asio::io_context& io, std::string folder,
                         std::function<void(const std::string& name)> appeared)
    : folder_(std::move(folder)), appeared_(std::move(appeared)), inotify_(io) {
  const int fd = ::inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (fd < 0) return;  // Renew tells
  inotify_.assign(fd);
  (void)Renew();
  Await();
}

FolderWatch::~FolderWatch() {
  *alive_ = nullptr;
}

std::string FolderWatch::Renew() {
  if (!inotify_.is_open()) return absl::StrCat(folder_, ": no inotify: fs.inotify.max_user_instances is too small");
  // The same number for a folder that is watched already, another for one that has taken its place.
  const int watch =
      ::inotify_add_watch(inotify_.native_handle(), folder_.c_str(), IN_CREATE | IN_MOVED_TO | IN_ONLYDIR);
  if (watch < 0) {
    watch_ = -1;
    return absl::StrCat(folder_, ": ", ::strerror(errno));
  }
  if (watch != std::exchange(watch_, watch)) {
    boost::asio::post(inotify_.get_executor(), [alive = alive_] {
      if (*alive) (*alive)->appeared_("");
    });
  }
  return "";
}

void FolderWatch::Await() {
  inotify_.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                      [alive = alive_](boost::system::error_code error) {
                        if (error || !*alive) return;
                        (*alive)->Read();
                        if (*alive) (*alive)->Await();
                      });
}

void FolderWatch::Read() {
  alignas(inotify_event) char buffer[4096];
  std::vector<std::string> names;
  for (ssize_t got = 0; (got = ::read(inotify_.native_handle(), buffer, sizeof buffer)) > 0;) {
    for (const char* at = buffer; at < buffer + got;) {
      const auto* event = reinterpret_cast<const inotify_event*>(at);
      at += sizeof *event + event->len;
      if (event->mask & IN_Q_OVERFLOW) names.emplace_back();
      if (event->wd == watch_ && event->len > 0) names.emplace_back(event->name);
    }
  }
  const auto alive = alive_;  // whom it tells may end it
  for (const std::string& name : names) {
    if (*alive) appeared_(name);
  }
}

}  // namespace everport
