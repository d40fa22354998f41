#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <functional>
#include <memory>
#include <string>

namespace everport {

// Tells of names that appear in a folder (inotify: created or moved there). Control thread.
class FolderWatch {
 public:
  // appeared: from handlers of io; an empty name: some may have been missed.
  FolderWatch(boost::asio::io_context& io, std::string folder, std::function<void(const std::string& name)> appeared);
  ~FolderWatch();
  FolderWatch(const FolderWatch&) = delete;
  FolderWatch& operator=(const FolderWatch&) = delete;

  // The folder may have come, or been replaced: call it from time to time. Empty, or why it is not watched.
  std::string Renew();

 private:
  void Await();
  void Read();

  const std::string folder_;
  const std::function<void(const std::string&)> appeared_;
  std::shared_ptr<FolderWatch*> alive_ = std::make_shared<FolderWatch*>(this);
  boost::asio::posix::stream_descriptor inotify_;
  int watch_ = -1;
};

}  // namespace everport
