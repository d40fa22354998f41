#pragma once

#include <boost/asio/io_context.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "backend/api/service_api.h"
#include "backend/config/config.h"
#include "backend/service/event_log.h"
#include "backend/service/folder_watch.h"
#include "backend/service/libvirt_ports.h"
#include "backend/service/state_store.h"
#include "migration/libvirt_watch.h"

namespace everport {

// The ports of libvirt's domains: they come and go with them ([libvirt]). Control thread.
//
//   a socket appears in the folder ─┐                       another thread: libvirt
//   an event of a domain's ─────────┴─► DomainSource looks ─────────────────────────► Sighting: all active domains
//                                                                                        │ posted to the control thread
//   ports.json, everport.toml ─► Others ─► PlanDomainPorts ◄─────────────────────────────┘
//                                             │ remove, replace, add
//                                             ▼
//                     PortTable (Service), libvirt.json, events, health
//
// What is done follows from the last Sighting alone, not from single events, so that none can be missed. A port goes
// only if libvirt has been asked with success and no domain has its socket: while libvirt is away all stay. One whose
// QEMU is connected stays too, whatever libvirt says, and goes when that has let go:
//
//   (none) ── an interface in the folder ──► made ── no domain has its socket ──► lingering ── no guest ──► (none)
//     ▲                                       │ ▲                                    │
//     └── removed by hand: left alone until ──┘ └──────── a domain has it again ─────┘
//         no domain has that socket
class LibvirtWatcher {
 public:
  // Whose ports they are.
  class PortTable {
   public:
    virtual ~PortTable() = default;
    // Those of the file and of the API; of those that are not served for now, name and socket.
    virtual std::vector<PortConfig> OtherPorts() const = 0;
    // Its QEMU is connected, or that is not known yet.
    virtual bool MayHaveGuest(const std::string& name) const = 0;
    virtual void MakeDomainPort(const PortConfig& port) = 0;
    virtual void RemoveDomainPort(const std::string& name) = 0;
  };
  // report may be called on any thread, until the source is gone.
  using MakeSource = std::function<std::unique_ptr<migration::DomainSource>(
      const LibvirtConfig& config, std::function<void(migration::Sighting)> report)>;

  LibvirtWatcher(boost::asio::io_context& io, const ContractSet& contracts, PortTable& table, const StateStore& store,
                 EventLog& events, MakeSource make_source);
  ~LibvirtWatcher();
  LibvirtWatcher(const LibvirtWatcher&) = delete;
  LibvirtWatcher& operator=(const LibvirtWatcher&) = delete;

  // Before Configure, once: the ports that were made before the daemon's start, which are to be in the table then but
  // for those that `fits` refuses.
  void Load(const std::function<absl::Status(const PortConfig&)>& fits);
  // Not known: those that were made earlier; sessions without a port may be theirs. Until libvirt has been asked.
  bool unknown() const { return unknown_; }

  // Begins, ends, or begins anew. Ports that there are stay; without [libvirt] until they are removed by hand.
  void Configure(const std::optional<LibvirtConfig>& config);
  // Once a second: what has no event.
  void Tick();
  // Ports that are not ours may have gone.
  void LookAgain();

  const std::vector<DomainPort>& made() const { return made_; }
  const DomainPort* Find(const std::string& name) const;
  // A port, whether or not of a domain's, has been removed by hand: its socket gets none until no domain has it.
  void Release(const PortConfig& port);

  // Nothing: it is not configured.
  std::optional<LibvirtView> View() const;
  // For health, each with its mend.
  std::vector<std::string> Problems() const;

 private:
  void OnSighting(migration::Sighting sighting);
  void OnAppeared(const std::string& name);
  void Reconcile();
  void TellLingering(const std::vector<std::string>& names);
  void Remove(const std::vector<std::string>& names);
  void NoteAppeared();
  void TellRefusals(std::vector<std::string> refused);
  void Save();

  boost::asio::io_context& io_;
  const ContractSet& contracts_;
  PortTable& table_;
  const StateStore& store_;
  EventLog& events_;
  const MakeSource make_source_;
  std::shared_ptr<LibvirtWatcher*> alive_;  // for what is posted; another for each source

  std::optional<LibvirtConfig> config_;
  std::unique_ptr<migration::DomainSource> source_;
  std::unique_ptr<FolderWatch> folder_;
  std::string folder_trouble_;
  std::vector<DomainPort> made_;
  bool unknown_ = false;
  absl::Status saved_;                       // why libvirt.json is not as made_ is; tried again
  std::optional<migration::Sighting> last_;  // the last one that was ok
  absl::Status reached_;                     // whether the last one was
  bool asked_ = false;                       // there was one
  std::set<std::string> lingering_;          // names
  std::set<std::string> left_alone_;         // sockets
  std::vector<std::string> refused_;         // of the last plan
  std::set<std::string> unreadable_;         // domains that were told of
  std::map<std::string, int> appeared_;      // sockets that nobody has had, and in how many Sightings
};

}  // namespace everport
