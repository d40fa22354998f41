#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "backend/api/http_server.h"
#include "backend/api/service_api.h"
#include "backend/api/tls_listener.h"
#include "backend/config/config.h"
#include "backend/datapath/mempools.h"
#include "backend/datapath/poller_group.h"
#include "backend/service/device_watch.h"
#include "backend/service/event_log.h"
#include "backend/service/keeper_client.h"
#include "backend/service/libvirt_watcher.h"
#include "backend/service/port.h"
#include "backend/service/state_store.h"
#include "numa/topology.h"

namespace everport {

// The daemon: the port table and all that it stands on. Everything runs on the control thread, which is the one that
// runs io; the pollers are its only other threads.
class Service : public ServiceApi, private KeeperClient::Listener, private LibvirtWatcher::PortTable {
 public:
  // config: of config_path, which Reload reads again. started: when the process began, for the start-up figures.
  Service(boost::asio::io_context& io, Config config, std::string config_path, absl::Time started);
  ~Service() override;

  // EAL, pollers, API, keeper, ports. What concerns one port alone does not fail the start: the port says so.
  absl::Status Start();
  // Reads the configuration file again and applies the difference to the ports it concerns. With a bad file nothing
  // changes, and the event says what is wrong.
  void Reload();
  // Lets go of the guests, and ends all else. False: a device's driver does not return, and what is left must not be
  // destroyed while it may go on: the process is to end at once.
  bool Stop();
  // A word for systemd and for people: "64 ports, 60 running".
  std::string Summary() const;

  // ServiceApi
  const DaemonConfig& daemon_config() const override { return config_.daemon; }
  const ContractSet& contracts() const override { return config_.contracts; }
  std::vector<PortView> Ports() const override;
  absl::StatusOr<PortView> Port(const std::string& name) const override;
  void AddPort(PortConfig port, Done done) override;
  void RemovePort(const std::string& name, Done done) override;
  void SwitchPath(const std::string& name, int uplink_index, Done done) override;
  std::vector<PollerView> Pollers() const override;
  std::vector<PlacementRow> Placement() const override;
  HealthView Health() const override;
  std::optional<ListenerView> Listener() const override { return listener_ ? listener_->View() : std::nullopt; }
  std::optional<LibvirtView> Libvirt() const override { return libvirt_.View(); }
  std::vector<EventView> RecentEvents() const override { return events_.Recent(); }
  int SubscribeEvents(std::function<void(const EventView&)> listener) override {
    return events_.Subscribe(std::move(listener));
  }
  void UnsubscribeEvents(int id) override { events_.Unsubscribe(id); }

 private:
  struct PollerSample {
    uint64_t slept_ns = 0;
    double busy = 0;
  };

  void OnKeeperConnected() override;
  void OnKeeperLost(const std::string& reason) override;
  void OnSession(const SessionEvent& event) override;
  void OnAnnounce(const AnnounceEvent& event) override;

  std::vector<PortConfig> OtherPorts() const override;
  bool MayHaveGuest(const std::string& name) const override;
  void MakeDomainPort(const PortConfig& port) override;
  void RemoveDomainPort(const std::string& name) override;

  absl::Status StartPollers();
  absl::Status LoadPorts();
  everport::Port* FindPort(const std::string& name) const;
  void Create(const PortConfig& port);
  // Gives the port its socket: from the keeper, or QEMU's. done may come at once.
  void Connect(const std::string& name, Done done);
  void AttachFromKeeper(everport::Port& port, absl::StatusOr<KeeperClient::Answer> answer, const Done& done);
  void Drop(const std::string& name);
  void PeersChanged(const std::string& name);
  void ReleaseHold();
  void TidyKeeper();
  void ConnectAt(const std::string& socket);
  void NoteProgress();
  std::string WhyKept() const;
  StartupView Startup() const;
  void RefuseReload(const std::string& reason);
  void ReloadDaemon(const DaemonConfig& next);
  void Apply(const std::vector<PortConfig>& next);
  std::vector<PortConfig> Configs() const;
  absl::Status CheckFits(const PortConfig& port) const;
  bool SocketServed(const std::string& socket) const;
  absl::Status SaveApiPorts();
  const StateStore::LeftOut* FindLeftOut(const std::string& name) const;
  absl::Status ForgetLeftOut(const std::string& name);
  void TakeInLeftOut();
  void EndSession(const std::string& name);
  PortView ViewOf(const everport::Port& port) const;
  std::string ChoiceNotSaved() const;
  void ForgetStaleChoices();
  void NoteChoice(const std::string& port, const std::optional<UplinkConfig>& uplink);
  void SampleLater();
  void WatchHealth();
  void WatchDevices();
  void Sample();
  void CheckMemoryGuard();
  void NoteSlowDevice();
  void SaveChoices();

  boost::asio::io_context& io_;
  Config config_;  // of the file
  const std::string config_path_;
  const absl::Time started_;
  StateStore store_;
  absl::Status store_error_;  // why the ports that the API added are not known; then nothing of theirs is ended
  std::vector<StateStore::LeftOut> left_out_;  // saved ports that are not served; their sessions are kept
  StateStore::Choices choices_;                // paths chosen by hand
  absl::Status choices_error_;                 // why they could not be saved; tried again
  std::set<std::string> unsaved_;              // ports whose choice is another than the one that was saved
  std::string reload_error_;                   // why the last Reload was refused; empty after one that was not
  EventLog events_;
  Topology topology_;
  bool sessions_known_ = false;    // the keeper has listed them
  std::set<std::string> awaited_;  // sessions that were running when we started
  StartupView startup_;            // until the first time that no session waited for us, total_ms 0 before

  Mempools mempools_;
  PollerGroup pollers_;
  DeviceWorker devices_;
  std::unique_ptr<PortEnvironment> environment_;
  std::vector<std::unique_ptr<everport::Port>> ports_;  // configuration order, then the API's
  std::set<std::string> api_ports_;                     // those that the API added
  std::unique_ptr<KeeperClient> keeper_;
  LibvirtWatcher libvirt_;
  int attaching_ = 0;  // `add` requests without an answer yet
  std::set<std::string> reattached_;
  std::unique_ptr<ApiServer> api_;
  std::unique_ptr<TlsListener> listener_;

  boost::asio::steady_timer sample_timer_;
  boost::asio::steady_timer health_timer_;
  std::unique_ptr<DeviceWatch> device_watch_;
  absl::Time sampled_ = absl::Now();
  std::vector<PollerSample> samples_;
  std::optional<DeviceWorker::Busy> slow_;  // the job of the device thread's that was told of
};

}  // namespace everport
