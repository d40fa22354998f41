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
#include "absl/strings/strip.h"
#include "backend/base/unique_fd.h"
#include "backend/config/check.h"

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

// A text of a port that does not parse otherwise; empty: there is none.
std::string TextOf(const boost::json::value& port, const char* key) {
  const boost::json::object* const object = port.if_object();
  const boost::json::value* const text = object ? object->if_contains(key) : nullptr;
  return text && text->is_string() ? std::string(text->get_string()) : "";
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

absl::StatusOr<StateStore::Saved> StateStore::Load(const ContractSet& contracts) const {
  const auto text = Read(path());
  if (!text.ok()) return text.status();
  if (!*text) return Saved{};
  boost::system::error_code error;
  const boost::json::value value = boost::json::parse(**text, error);
  if (error || !value.is_array())
    return absl::DataLossError(
        absl::StrCat(path(), ": not a JSON array of ports; repair it, or move it away, and restart everportd"));
  Saved saved;
  for (const boost::json::value& item : value.as_array()) {
    const std::string json = boost::json::serialize(item);
    absl::StatusOr<PortConfig> port = PortFromJson(json, &contracts);
    if (port.ok()) {
      saved.ports.push_back(std::move(*port));
      continue;
    }
    const std::string why = FirstFault(port.status());
    const std::string name = TextOf(item, "name");
    if (!config::ValidName(name)) {
      return absl::DataLossError(
          absl::StrCat(path(), ": port[", saved.ports.size() + saved.left_out.size(), "]: ", why));
    }
    saved.left_out.push_back(
        {name, TextOf(item, "socket"), json, std::string(absl::StripPrefix(why, absl::StrCat("port ", name, ": ")))});
  }
  return saved;
}

absl::Status StateStore::Save(const std::vector<PortConfig>& ports, const std::vector<LeftOut>& left_out) const {
  boost::json::array array;
  for (const PortConfig& port : ports) array.push_back(boost::json::parse(PortToJson(port)));
  for (const LeftOut& port : left_out) array.push_back(boost::json::parse(port.json));
  return Replace(path(), boost::json::serialize(array) + "\n");
}

absl::StatusOr<StateStore::SavedDomainPorts> StateStore::LoadDomainPorts(const ContractSet& contracts) const {
  const auto text = Read(domains_path());
  if (!text.ok()) return text.status();
  SavedDomainPorts saved;
  if (!*text) return saved;
  boost::system::error_code error;
  const boost::json::value value = boost::json::parse(**text, error);
  const absl::Status malformed = absl::DataLossError(absl::StrCat(
      domains_path(), ": not a JSON array of libvirt's domains' ports; it is made anew from what libvirt says"));
  if (error || !value.is_array()) return malformed;
  for (const boost::json::value& item : value.as_array()) {
    const boost::json::object* const object = item.if_object();
    const boost::json::value* const port = object ? object->if_contains("port") : nullptr;
    const boost::json::value* const uuid = object ? object->if_contains("uuid") : nullptr;
    const boost::json::value* const domain = object ? object->if_contains("domain") : nullptr;
    if (!port || !uuid || !uuid->is_string() || !domain || !domain->is_string()) return malformed;
    absl::StatusOr<PortConfig> config = PortFromJson(boost::json::serialize(*port), &contracts);
    if (config.ok()) {
      saved.ports.push_back({*std::move(config), std::string(uuid->as_string()), std::string(domain->as_string())});
    } else {
      saved.left_out.push_back(absl::StrCat(domains_path(), ": port of ", DomainText(std::string(domain->as_string())),
                                            " left out: ", FirstFault(config.status()),
                                            "; it is made anew from what libvirt says"));
    }
  }
  return saved;
}

absl::Status StateStore::SaveDomainPorts(const std::vector<DomainPort>& ports) const {
  boost::json::array array;
  for (const DomainPort& port : ports) {
    array.push_back(boost::json::object{
        {"port", boost::json::parse(PortToJson(port.config))}, {"uuid", port.uuid}, {"domain", port.domain}});
  }
  return Replace(domains_path(), boost::json::serialize(array) + "\n");
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
