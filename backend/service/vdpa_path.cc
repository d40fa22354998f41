#include "backend/service/vdpa_path.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "backend/base/log.h"

namespace everport {

VdpaPath::VdpaPath(boost::asio::io_context& io, std::string port, std::shared_ptr<GuestEndpoint> guest, GuestLink& link,
                   const VdpaBounds& bounds)
    : port_(std::move(port)), guest_(std::move(guest)), link_(link), bounds_(bounds), timer_(io) {}

VdpaPath::~VdpaPath() {
  alive_.reset();  // the guest stays the device's, for others as well, until its session ends
}

void VdpaPath::Start(std::shared_ptr<VdpaDevice> device, Done done) {
  device_ = std::move(device);
  object_ = absl::StrCat("vdpa ", device_->name(), ": ");
  done_ = std::move(done);
  failure_ = absl::OkStatus();
  abandoned_ = false;
  state_ = State::kAttaching;
  guest_->ArmWake();  // a poller may have told the guest not to kick; that stands in guest memory
  guest_->SetServedByDevice(true);
  link_.Reconnect(device_, [this, weak = std::weak_ptr<VdpaPath*>(alive_)](const absl::Status& status) {
    if (weak.lock()) OnAttached(status);
  });
  Arm(bounds_.replay);
}

void VdpaPath::OnAttached(const absl::Status& status) {
  if (abandoned_) return Detach();
  if (!status.ok()) return Fail(status);
  state_ = State::kAwaitingGuest;
  deadline_ = absl::Now() + bounds_.replay;
  Arm(bounds_.replay);
  OnGuestChanged();
}

void VdpaPath::OnGuestChanged() {
  const bool running = guest_->running();
  switch (state_) {
    case State::kAwaitingGuest:
      if (!running) return;
      state_ = State::kSettling;
      guest_->KickAll();  // for what was made available while nobody looked
      Arm(bounds_.refusal);
      [[fallthrough]];
    case State::kSettling:
      if (guest_->vdpa_refused()) {
        Fail(absl::FailedPreconditionError(absl::StrCat(
            object_, "its driver did not take the guest's rings; the dpdk lines in the daemon's log say why")));
      } else if (!running) {  // the keeper has begun anew
        state_ = State::kAwaitingGuest;
        Arm(deadline_ - absl::Now());
      }
      return;
    case State::kServing:
      if (guest_->vdpa_refused()) device_->Refuse();
      if (running) WatchRings();
      return;
    case State::kAwaitingRelay:
      if (running) Finish(State::kIdle, failure_);
      return;
    case State::kIdle:
    case State::kAttaching:
    case State::kDetaching:
      return;
  }
}

// Nothing can hurry the driver; at least it is known whom everything waits for, other ports' reconnections included.
void VdpaPath::OnTime() {
  switch (state_) {
    case State::kAttaching:
    case State::kDetaching:
      spdlog::error("port {}: {}its driver has kept librte_vhost waiting for more than {}", port_, object_,
                    absl::FormatDuration(bounds_.replay));
      return;
    case State::kAwaitingGuest:
      return Fail(absl::DeadlineExceededError(
          absl::StrCat(object_, "the guest's session did not come back to it within ",
                       absl::FormatDuration(bounds_.replay), "; the keeper's log says why")));
    case State::kSettling:
      return Serve();
    case State::kAwaitingRelay:
      return Finish(State::kIdle, failure_.ok() ? absl::DeadlineExceededError(absl::StrCat(
                                                      object_, "let go, but the guest's session did not come back ",
                                                      "within ", absl::FormatDuration(bounds_.replay)))
                                                : failure_);
    case State::kIdle:
    case State::kServing:
      return;
  }
}

void VdpaPath::Serve() {
  serving_since_ = absl::Now();
  WatchRings();
  guest_->KickAll();  // the driver may have emptied the eventfds before it started the device
  Finish(State::kServing, absl::OkStatus());
}

void VdpaPath::WatchRings() {
  const std::lock_guard lock(watched_->mutex);  // while it is held, a device that is going waits in the hook
  if (!watched_->rings.rings.empty()) return;
  const auto stop = [watched = watched_](bool) {
    const std::lock_guard gone(watched->mutex);
    watched->rings = {};
    return GuestRings{};  // where the driver has come to is for the keeper to find
  };
  const bool there = guest_->SetOffload(stop, /*logs=*/false);
  if (!there) return;
  if (absl::StatusOr<GuestRings> rings = guest_->Rings(); rings.ok()) watched_->rings = *std::move(rings);
  progress_ = {};
}

void VdpaPath::Stop(Done done) {
  done_ = std::move(done);
  failure_ = absl::OkStatus();
  Detach();
}

void VdpaPath::Fail(absl::Status why) {
  failure_ = std::move(why);
  Detach();
}

void VdpaPath::Abandon(std::function<void()> changed) {
  if (idle()) return;
  done_ = nullptr;
  abandoned_ = true;
  changed_ = std::move(changed);
  switch (state_) {
    case State::kAwaitingGuest:
    case State::kSettling:
    case State::kServing:
      return Detach();
    case State::kAwaitingRelay:
      return Finish(State::kIdle, absl::OkStatus());
    case State::kIdle:
    case State::kAttaching:  // OnAttached goes on
    case State::kDetaching:
      return;
  }
}

void VdpaPath::Detach() {
  state_ = State::kDetaching;
  device_.reset();  // ending it may block: the link does so in a thread of its own
  link_.Reconnect(nullptr, [this, weak = std::weak_ptr<VdpaPath*>(alive_)](const absl::Status& status) {
    if (weak.lock()) OnDetached(status);
  });
  Arm(bounds_.replay);
}

void VdpaPath::OnDetached(const absl::Status& status) {
  failure_.Update(status);
  if (abandoned_) return Finish(State::kIdle, absl::OkStatus());
  state_ = State::kAwaitingRelay;
  Arm(bounds_.replay);
  OnGuestChanged();
}

void VdpaPath::Finish(State state, absl::Status status) {
  state_ = state;
  ++armed_;
  timer_.cancel();
  if (idle()) guest_->SetServedByDevice(false);
  // Not from in here: whoever has called us is not done yet.
  boost::asio::post(timer_.get_executor(),
                    [weak = std::weak_ptr<VdpaPath*>(alive_), status = std::move(status),
                     done = std::exchange(done_, nullptr), changed = std::exchange(changed_, nullptr)] {
                      if (!weak.lock()) return;
                      if (done) done(status);
                      if (changed) changed();
                    });
}

void VdpaPath::Arm(absl::Duration after) {
  timer_.expires_after(absl::ToChronoMicroseconds(std::max(after, absl::ZeroDuration())));
  timer_.async_wait([this, weak = std::weak_ptr<VdpaPath*>(alive_), run = ++armed_](boost::system::error_code error) {
    if (!error && weak.lock() && run == armed_) OnTime();
  });
}

uint64_t VdpaPath::StalledMs(absl::Time now) {
  if (!serving()) return 0;
  const std::unique_lock lock(watched_->mutex, std::try_to_lock);
  const uint64_t stalled_ms = lock ? progress_.StalledMs(watched_->rings, now) : 0;
  // A driver that is still configuring its device has finished nothing yet, and is no stall.
  return progress_.moved() || now - serving_since_ > bounds_.configure ? stalled_ms : 0;
}

}  // namespace everport
