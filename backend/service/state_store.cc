#include "backend/service/state_store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "backend/base/unique_fd.h"

namespace everport {
namespace {

absl::Status Failed(const std::string& path, const char* what) {
  return absl::UnavailableError(absl::StrCat(path, ": ", what, ": ", strerror(errno),
                                             "; make [daemon] state_dir a folder that everportd may write"));
}

absl::Status WriteAll(int fd, const std::string& path, const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Failed(path, "write");
    done += static_cast<size_t>(n);
  }
  return fsync(fd) == 0 ? absl::OkStatus() : Failed(path, "fsync");
}

}  // namespace

absl::StatusOr<std::vector<PortConfig>> StateStore::Load() const {
  std::ifstream file(path());
  if (!file) {
    if (errno == ENOENT) return std::vector<PortConfig>{};
    return Failed(path(), "read");
  }
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  boost::system::error_code error;
  const boost::json::value value = boost::json::parse(text, error);
  if (error || !value.is_array())
    return absl::DataLossError(
        absl::StrCat(path(), ": not a JSON array of ports; repair it, or move it away, and restart everportd"));
  std::vector<PortConfig> ports;
  for (const boost::json::value& item : value.as_array()) {
    absl::StatusOr<PortConfig> port = PortFromJson(boost::json::serialize(item));
    if (!port.ok())
      return absl::DataLossError(absl::StrCat(path(), ": port[", ports.size(), "]: ", port.status().message()));
    ports.push_back(std::move(*port));
  }
  return ports;
}

absl::Status StateStore::Save(const std::vector<PortConfig>& ports) const {
  std::error_code made;
  std::filesystem::create_directories(dir_, made);
  boost::json::array array;
  for (const PortConfig& port : ports) array.push_back(boost::json::parse(PortToJson(port)));
  const std::string temporary = path() + ".new";
  UniqueFd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd.valid()) return Failed(temporary, "open");
  if (absl::Status status = WriteAll(fd.get(), temporary, boost::json::serialize(array) + "\n"); !status.ok())
    return status;
  if (rename(temporary.c_str(), path().c_str()) != 0) return Failed(path(), "rename");
  UniqueFd dir(open(dir_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return dir.valid() && fsync(dir.get()) == 0 ? absl::OkStatus() : Failed(dir_, "fsync");
}

}  // namespace everport
