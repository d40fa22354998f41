#pragma once

#include <boost/asio/io_context.hpp>
#include <functional>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "backend/base/unique_fd.h"
#include "backend/keeper/fd_watcher.h"

namespace everport {

// Tells when a name appears in a folder (inotify: created or moved there). One watch a folder, however many names.
// A folder that is not there cannot be watched: call Watch again from time to time.
class SocketWatch {
 public:
  explicit SocketWatch(boost::asio::io_context& io);

  // Calls `appeared` at each appearance of path from now on. Again with the same path: makes sure that its folder is
  // watched (it may have come or been replaced since). Returns whether it is.
  bool Watch(const std::string& path, std::function<void()> appeared);
  bool Renew(const std::string& path);
  void Forget(const std::string& path);

 private:
  struct Folder {
    int wd = -1;
    std::map<std::string, std::function<void()>> names;
  };
  void Read();
  bool Add(const std::string& folder);

  UniqueFd inotify_;
  std::map<std::string, Folder> folders_;
  FdWatcher watcher_;
};

}  // namespace everport
