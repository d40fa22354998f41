#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/config/config.h"
#include "backend/service/libvirt_ports.h"

namespace everport {

// What the API and libvirt have said and the configuration file does not: under <state_dir>, in files that are replaced
// atomically. ports.json, an array of port objects: those that were added. paths.json, an object of uplinks by port's
// name: those that were chosen by hand. libvirt.json, an array of objects: the ports of libvirt's domains, with whose
// they are.
class StateStore {
 public:
  explicit StateStore(std::string dir) : dir_(std::move(dir)) {}

  // A port that cannot be served as it was saved: its contract is gone from the configuration, for one.
  struct LeftOut {
    std::string name;
    std::string socket;  // empty: it says none
    std::string json;    // as it was saved
    std::string why;     // and the mend, without the port's name
  };
  struct Saved {
    std::vector<PortConfig> ports;
    std::vector<LeftOut> left_out;
  };
  // Empty when there is no file yet. An unreadable or malformed file, or an entry without a port's name, is an error
  // that names it and the mend.
  absl::StatusOr<Saved> Load(const ContractSet& contracts) const;
  // After OkStatus the new content survives a power cut; otherwise the old file is as it was.
  absl::Status Save(const std::vector<PortConfig>& ports, const std::vector<LeftOut>& left_out = {}) const;

  struct SavedDomainPorts {
    std::vector<DomainPort> ports;
    std::vector<std::string> left_out;  // one line each: what there is besides, and why it cannot be served
  };
  absl::StatusOr<SavedDomainPorts> LoadDomainPorts(const ContractSet& contracts) const;
  absl::Status SaveDomainPorts(const std::vector<DomainPort>& ports) const;

  // Kind and device of each alone.
  using Choices = std::map<std::string, UplinkConfig>;
  absl::StatusOr<Choices> LoadChoices() const;
  absl::Status SaveChoices(const Choices& choices) const;

 private:
  absl::StatusOr<std::optional<std::string>> Read(const std::string& path) const;  // nullopt: there is no file
  absl::Status Replace(const std::string& path, const std::string& text) const;

  std::string path() const { return dir_ + "/ports.json"; }
  std::string choices_path() const { return dir_ + "/paths.json"; }
  std::string domains_path() const { return dir_ + "/libvirt.json"; }
  const std::string dir_;
};

}  // namespace everport
