#include "backend/service/guest_link.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "backend/base/log.h"
#include "failover/health_monitor.h"

namespace everport {
namespace {

// A driver that takes longer to end its device's work is named: librte_vhost has one thread for all ports.
constexpr absl::Duration kSlow = absl::Seconds(1);

}  // namespace

absl::Status GuestLink::Connection::Begin(const Connect& connect, const std::shared_ptr<VdpaDevice>& with) {
  auto connected = connect(with ? with->handle() : nullptr);
  there = connected.ok();
  if (!there) return connected.status();
  driver = *std::move(connected);
  device = with;
  return absl::OkStatus();
}

void GuestLink::Connection::End() {
  const absl::Time before = absl::Now();
  driver.reset();
  there = false;
  if (const absl::Duration took = absl::Now() - before; device && took > kSlow) {
    spdlog::warn(
        "vdpa {}: its driver took {} to end the device's work; meanwhile no port could connect to its guest anew",
        device->name(), absl::FormatDuration(absl::Trunc(took, absl::Milliseconds(1))));
  }
  device.reset();
}

GuestLink::GuestLink(boost::asio::io_context& io, std::shared_ptr<GuestEndpoint> guest, Connect connect)
    : io_(io), guest_(std::move(guest)), connect_(std::move(connect)), retry_timer_(io) {}

GuestLink::~GuestLink() {
  alive_.reset();
  worker_.reset();
  guest_->Retire();  // a job may have revived it
  connection_->End();
}

absl::Status GuestLink::Start() {
  return connection_->Begin(connect_, nullptr);
}

void GuestLink::Reconnect(std::shared_ptr<VdpaDevice> device, std::function<void(absl::Status)> done) {
  if (!worker_) worker_ = std::make_unique<DeviceWorker>(io_);
  reconnecting_ = true;
  ++armed_;
  retry_timer_.cancel();
  guest_->Retire();  // before librte_vhost is told: it says why
  worker_->Run<absl::Status>(
      [guest = guest_, connect = connect_, connection = connection_, device = std::move(device)] {
        connection->End();
        guest->Revive();
        absl::Status status = connection->Begin(connect, device);
        if (!status.ok() && device) (void)connection->Begin(connect, nullptr);
        return status;
      },
      [this, done = std::move(done)](absl::Status status) {
        reconnecting_ = false;
        if (!status.ok()) spdlog::error("{}", std::string(status.message()));
        retry_delay_ = absl::ZeroDuration();
        if (!connection_->there) RetryLater();
        done(std::move(status));
      });
}

void GuestLink::RetryLater() {
  retry_delay_ = retry_delay_ == absl::ZeroDuration() ? kFirstRetry : std::min(2 * retry_delay_, kLongestRetry);
  retry_timer_.expires_after(absl::ToChronoMilliseconds(retry_delay_));
  retry_timer_.async_wait(
      [this, weak = std::weak_ptr<GuestLink*>(alive_), run = ++armed_](boost::system::error_code error) {
        if (!error && weak.lock() && run == armed_) Retry();
      });
}

// A Reconnect that is asked for meanwhile comes behind it, and ends what it has brought.
void GuestLink::Retry() {
  worker_->Run<absl::Status>(
      [connect = connect_, connection = connection_] { return connection->Begin(connect, nullptr); },
      [this](const absl::Status& status) {
        if (status.ok() || reconnecting_) return;
        spdlog::error("{}; tried again", std::string(status.message()));
        RetryLater();
      });
}

}  // namespace everport
