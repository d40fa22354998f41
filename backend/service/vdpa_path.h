#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "backend/service/guest_link.h"
#include "backend/service/ring_progress.h"

namespace everport {

// How long the parts of an attachment may take.
struct VdpaBounds {
  // From the new connection to the guest's device: the keeper's replay takes milliseconds, unless librte_vhost finds
  // nobody listening and tries again a second later.
  absl::Duration replay = absl::Seconds(2);
  // librte_vhost gives the rings to the driver just after it has told us of the guest's device, and does not tell what
  // became of it but for an error. A driver that refuses them later is troubled.
  absl::Duration refusal = absl::Milliseconds(20);
  // librte_vhost says nothing when the driver has configured its device: for so long one that has finished nothing yet
  // is taken for one that is being configured.
  absl::Duration configure = absl::Seconds(2);
};

// The vDPA devices of DPDK's that serve a port's guest, one after the other: attached to its session and detached from
// it (uplink kind "vdpa"). No poller may use the rings while idle() does not hold. Control thread.
class VdpaPath {
 public:
  enum class State {
    kIdle,           // librte_vhost serves the rings, if the guest runs
    kAttaching,      // the session is being taken up anew with the device
    kAwaitingGuest,  // that is done; the keeper's replay is to bring the guest's device
    kSettling,       // it has come, and the driver is being given the rings
    kServing,        // the device serves them
    kDetaching,      // the session is being taken up anew without the device
    kAwaitingRelay,  // that is done; the keeper's replay is to bring the guest's device
  };
  using Done = std::function<void(absl::Status)>;

  VdpaPath(boost::asio::io_context& io, std::string port, std::shared_ptr<GuestEndpoint> guest, GuestLink& link,
           const VdpaBounds& bounds = {});
  // The link may still have the device: the session must end next.
  ~VdpaPath();

  // From kIdle. done is called once, later. After an error it is idle again, and the guest's device runs unless the
  // guest itself has gone.
  void Start(std::shared_ptr<VdpaDevice> device, Done done);
  // From kServing. done, later: it is idle; an error says that the guest's device has not come back in time.
  void Stop(Done done);
  // The same without anyone to be told but by `changed`, and from any state: the guest has gone, or the uplink.
  // What Start or Stop was to call is not called.
  void Abandon(std::function<void()> changed);
  // The guest endpoint says that something has changed.
  void OnGuestChanged();

  State state() const { return state_; }
  bool idle() const { return state_ == State::kIdle; }
  bool serving() const { return state_ == State::kServing; }
  uint64_t StalledMs(absl::Time now);

 private:
  void OnAttached(const absl::Status& status);
  void Detach();
  void OnDetached(const absl::Status& status);
  void OnTime();
  void Fail(absl::Status why);
  void Finish(State state, absl::Status status);
  void Serve();
  void WatchRings();
  void Arm(absl::Duration after);

  const std::string port_;
  const std::shared_ptr<GuestEndpoint> guest_;
  GuestLink& link_;
  const VdpaBounds bounds_;
  std::shared_ptr<VdpaPath*> alive_ = std::make_shared<VdpaPath*>(this);
  boost::asio::steady_timer timer_;
  uint64_t armed_ = 0;  // which expiry counts
  State state_ = State::kIdle;
  std::shared_ptr<VdpaDevice> device_;  // until it is being detached
  std::string object_;                  // "vdpa NAME: "
  absl::Status failure_;                // why it is being detached; OK: as asked
  absl::Time deadline_ = absl::InfiniteFuture();
  bool abandoned_ = false;
  Done done_;
  std::function<void()> changed_;

  // Good until librte_vhost takes the guest's device away, which it does in a thread of its own.
  struct Watched {
    std::mutex mutex;
    GuestRings rings;
  };
  const std::shared_ptr<Watched> watched_ = std::make_shared<Watched>();
  RingProgress progress_;
  absl::Time serving_since_ = absl::InfinitePast();
};

}  // namespace everport
