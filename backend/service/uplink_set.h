#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "backend/config/config.h"
#include "backend/datapath/uplink.h"
#include "backend/service/device_watch.h"
#include "backend/service/device_worker.h"
#include "backend/service/event_log.h"
#include "failover/health_monitor.h"

namespace everport {

// Of a device that its driver does not let go of: what is the matter, for how long, and the mend.
std::string DescribeSlow(const DeviceWorker::Busy& busy);

// Whether the port at the other end of a wire has a guest that takes frames.
enum class PeerGuest {
  kUnknown,  // its session is yet to be found: the port has just been attached
  kAbsent,
  kRuns,
};

// What uplinks need of the daemon; outlives them.
struct UplinkEnvironment {
  boost::asio::io_context& io;
  Mempools& mempools;
  EventLog& events;
  DeviceWorker& devices;  // opens and closes what does not open quickly
  FindGuest find_guest;
  std::function<PeerGuest(const std::string& port)> guest_of;
  bool keeper = true;  // sessions can be taken up anew without the guest's notice
};

// A port's uplinks and their health. All are kept open as far as they work, so that a switch finds its target ready.
// Which one is used is not decided here. Control thread.
class UplinkSet {
 public:
  struct Item {
    UplinkConfig config;
    HealthMonitor health;
    std::string told;              // the last trouble that an event has told; empty: it has been well since
    std::string error;             // why it does not work; empty if it does, or nothing is known yet
    bool unfit = false;            // an offload device that lacks what the guest has negotiated
    std::unique_ptr<Uplink> open;  // may still be there when health says closed: until CloseFailed
    bool tried = false;            // its first opening has ended
    unsigned ifindex = 0;          // of the kernel's device when it was opened; 0: it stands on none
    uint64_t lacks = 0;            // feature bits of the contract, as told last
    uint64_t serial = 0;           // of this item, whatever its index
    bool leaving = false;          // the next configuration is without it: it is used no longer than it must be
  };

  // contract_features: what guests are offered. changed: an opening by the device thread has ended.
  UplinkSet(UplinkEnvironment& environment, uint64_t contract_features, std::function<void()> changed);
  ~UplinkSet();

  // The next SetConfig is to be with this one: what it leaves out is not usable any more, nor opened, but stays as it
  // is, so that the caller can move the guest off it.
  void PrepareConfig(const PortConfig& next);
  // Another configuration: uplinks that are in it as they were stay as they are. Returns where each of the former ones
  // is now, -1: it is not. Those are still in being, so that the caller may stop using them, until ForgetDropped.
  std::vector<int> SetConfig(const PortConfig& port);
  // Closes what the last SetConfig left out, and removes what such uplinks keep across restarts.
  void ForgetDropped();
  // The same with all of them: the port is removed for good.
  void ForgetAll();

  int size() const { return static_cast<int>(items_.size()); }
  const Item& at(int index) const { return items_[static_cast<size_t>(index)]; }
  std::vector<HealthMonitor::State> states() const;
  bool settled() const;  // every uplink has been tried once, or its opening takes too long to be waited for
  // Why it does not work, empty if it does: its error, or what holds its opening up.
  std::string WhyNot(int index) const;
  double opening_ms() const { return opening_ms_; }
  // Frames that devices took and will never send, since the port is.
  uint64_t refused() const;

  // Opens those that are due. node: where the guest's memory lies, -1: unknown.
  void OpenDue(absl::Time now, int node);
  // These return whether an uplink's state is another than before.
  // Asks the devices how they are. stalled_ms: of the path on `active`.
  bool Poll(absl::Time now, int active, uint64_t stalled_ms);
  // The kernel's network device of that name has changed. index: 0 if it has gone.
  bool OnNetdev(const std::string& name, unsigned index, bool running);
  // The guest of the port of that name has come or gone.
  bool OnPeerGuest(const std::string& peer);
  // What there is to say of a wire that is used all the same: it is the only uplink, and its other end has no guest.
  std::string WireNote(int index) const;
  // Asks the kernel whether those devices are still there.
  bool CheckNetdevs();
  // A device has appeared or changed: those that do not work are tried again.
  bool OnDeviceEvent();
  // What the guest has negotiated, 0 while it does not run: an offload device that cannot serve that is not used.
  // arriving: by post-copy, so that pages of its memory may be missing.
  void SetGuest(uint64_t features, uint16_t queue_pairs, bool arriving);
  // Those that have proved themselves are trusted.
  void Tick(absl::Time now);
  // Open, well, and fit for the guest.
  bool Usable(int index) const;
  // Something is wrong with it that its device does not tell.
  void Report(int index, Trouble trouble, const std::string& what);
  // It is at fault itself no more (its peer has come or gone): opened anew.
  void Reopen(int index, int node);
  // Closes what has failed. Nobody may use such uplinks any more.
  void CloseFailed(int active);
  // When Poll or OpenDue has something new to say without an event; infinite future if never.
  absl::Time next() const;
  bool needs_polling() const;

 private:
  std::vector<int> Moved(const PortConfig& next) const;
  void Open(Item& item, int node);
  Item* Find(uint64_t serial);  // nullptr: not wanted any more
  void OnOpened(Item& item, absl::StatusOr<std::unique_ptr<Uplink>> uplink);
  bool Condition(int index, Trouble trouble, absl::Time now, const std::string& what);
  void LookAtLink(int index);
  bool LookAtWire(int index);
  void NoteLacks(int index);
  void TellWell(int index);
  void Close(std::unique_ptr<Uplink> uplink, const UplinkConfig& config);
  void Forget(Item& item);

  UplinkEnvironment& env_;
  const uint64_t contract_features_;
  const std::function<void()> changed_;
  std::shared_ptr<UplinkSet*> alive_ = std::make_shared<UplinkSet*>(this);
  PortConfig port_;
  uint64_t guest_features_ = 0;
  std::vector<Item> items_;
  std::vector<Item> dropped_;
  double opening_ms_ = 0;
  uint64_t refused_before_ = 0;  // by uplinks that are closed
};

}  // namespace everport
