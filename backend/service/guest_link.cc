#include "backend/service/guest_link.h"

#include <utility>

#include "backend/base/log.h"

namespace everport {

GuestLink::GuestLink(boost::asio::io_context& io, std::shared_ptr<GuestEndpoint> guest, Connect connect)
    : io_(io), guest_(std::move(guest)), connect_(std::move(connect)) {}

GuestLink::~GuestLink() {
  worker_.reset();
  guest_->Retire();  // a job may have revived it
  connection_->driver.reset();
}

absl::Status GuestLink::Start() {
  auto driver = connect_(nullptr);
  if (driver.ok()) connection_->driver = *std::move(driver);
  return driver.status();
}

void GuestLink::Reconnect(std::shared_ptr<VdpaDevice> device, std::function<void(absl::Status)> done) {
  if (!worker_) worker_ = std::make_unique<DeviceWorker>(io_);
  reconnecting_ = true;
  guest_->Retire();  // before librte_vhost is told: it says why
  worker_->Run<absl::Status>(
      [guest = guest_, connect = connect_, connection = connection_, device = std::move(device)] {
        connection->driver.reset();
        connection->device.reset();
        guest->Revive();
        auto driver = connect(device ? device->handle() : nullptr);
        if (driver.ok()) {
          connection->driver = *std::move(driver);
          connection->device = device;
          return absl::OkStatus();
        }
        if (!device) return driver.status();
        if (auto bare = connect(nullptr); bare.ok()) connection->driver = *std::move(bare);
        return driver.status();
      },
      [this, done = std::move(done)](absl::Status status) {
        reconnecting_ = false;
        if (!status.ok()) spdlog::error("{}", std::string(status.message()));
        done(std::move(status));
      });
}

}  // namespace everport
