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

absl::StatusOr<std::optional<std::string>> StateStore::Read(const std::string& path) const {
  std::ifstream file(path);
  if (file) return std::string((std::istreambuf_iterator<char>(file)), {});
  if (errno == ENOENT) return std::nullopt;
  return Failed(path, "read");
}

absl::Status StateStore::Replace(const std::string& path, const std::string& text) const {
  std::error_code made;
  std::filesystem::create_directories(dir_, made);
  const std::string temporary = path + ".new";
  UniqueFd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd.valid()) return Failed(temporary, "open");
  if (absl::Status status = WriteAll(fd.get(), temporary, text); !status.ok()) return status;
  if (rename(temporary.c_str(), path.c_str()) != 0) return Failed(path, "rename");
  UniqueFd dir(open(dir_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return dir.valid() && fsync(dir.get()) == 0 ? absl::OkStatus() : Failed(dir_, "fsync");
}

absl::StatusOr<std::vector<PortConfig>> StateStore::Load(const ContractSet& contracts) const {
  const auto text = Read(path());
  if (!text.ok()) return text.status();
  if (!*text) return std::vector<PortConfig>{};
  boost::system::error_code error;
  const boost::json::value value = boost::json::parse(**text, error);
  if (error || !value.is_array())
    return absl::DataLossError(
        absl::StrCat(path(), ": not a JSON array of ports; repair it, or move it away, and restart everportd"));
  std::vector<PortConfig> ports;
  for (const boost::json::value& item : value.as_array()) {
    absl::StatusOr<PortConfig> port = PortFromJson(boost::json::serialize(item), &contracts);
    if (!port.ok())
      return absl::DataLossError(absl::StrCat(path(), ": port[", ports.size(), "]: ", port.status().message()));
    ports.push_back(std::move(*port));
  }
  return ports;
}

absl::Status StateStore::Save(const std::vector<PortConfig>& ports) const {
  boost::json::array array;
  for (const PortConfig& port : ports) array.push_back(boost::json::parse(PortToJson(port)));
  return Replace(path(), boost::json::serialize(array) + "\n");
}

absl::StatusOr<StateStore::Choices> StateStore::LoadChoices() const {
  const auto text = Read(choices_path());
  if (!text.ok()) return text.status();
  if (!*text) return Choices{};
  const absl::Status malformed = absl::DataLossError(
      absl::StrCat(choices_path(), ": not a JSON object of uplinks by port; the paths chosen by hand are forgotten"));
  boost::system::error_code error;
  const boost::json::value value = boost::json::parse(**text, error);
  if (error || !value.is_object()) return malformed;
  Choices choices;
  for (const auto& [port, uplink] : value.as_object()) {
    const boost::json::object* const object = uplink.if_object();
    const boost::json::value* const kind = object ? object->if_contains("kind") : nullptr;
    const boost::json::value* const device = object ? object->if_contains("device") : nullptr;
    if (!kind || !kind->is_string() || !device || !device->is_string()) return malformed;
    const absl::StatusOr<UplinkKind> parsed = ParseUplinkKind(std::string(kind->as_string()));
    if (!parsed.ok()) return malformed;
    choices[std::string(port)] = {.kind = *parsed, .device = std::string(device->as_string()), .bridge = {}};
  }
  return choices;
}

absl::Status StateStore::SaveChoices(const Choices& choices) const {
  boost::json::object object;
  for (const auto& [port, uplink] : choices)
    object[port] = boost::json::object{{"kind", std::string(UplinkKindName(uplink.kind))}, {"device", uplink.device}};
  return Replace(choices_path(), boost::json::serialize(object) + "\n");
}

}  // namespace everport
