#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "backend/datapath/guest_endpoint.h"
#include "backend/datapath/vdpa_device.h"
#include "backend/service/device_worker.h"

namespace everport {

// A port's vhost-user connection, and the taking up anew of it, with a vDPA device attached or without one:
// librte_vhost knows no other way. Behind the keeper the guest does not notice. Control thread.
class GuestLink {
 public:
  // Registers the socket; the connection ends with the last reference to what it returns. nullptr: without a device.
  using Connect = std::function<absl::StatusOr<std::shared_ptr<void>>(rte_vdpa_device*)>;

  GuestLink(boost::asio::io_context& io, std::shared_ptr<GuestEndpoint> guest, Connect connect);
  // The guest's rings are let go when it returns. Waits for the device's driver if a reconnection is under way.
  ~GuestLink();
  GuestLink(const GuestLink&) = delete;
  GuestLink& operator=(const GuestLink&) = delete;

  // The first connection, without a device.
  absl::Status Start();
  // Ends the connection, with it the work of the device that is attached, and takes it up with this one; nullptr:
  // without. No poller uses the guest's rings when it returns; the rest goes on in a thread of its own, as ending the
  // connection waits for the device's driver. done, later: librte_vhost connects now, the guest's device is yet to
  // come. After an error the connection is one without a device; if none can be had at all, it is tried again and
  // again. The link keeps the device as long as it may be in use. One at a time.
  void Reconnect(std::shared_ptr<VdpaDevice> device, std::function<void(absl::Status)> done);
  bool reconnecting() const { return reconnecting_; }

 private:
  struct Connection {  // the worker's while a job is under way
    std::shared_ptr<VdpaDevice> device;
    std::shared_ptr<void> driver;
    bool there = false;

    absl::Status Begin(const Connect& connect, const std::shared_ptr<VdpaDevice>& with);
    void End();
  };
  void RetryLater();
  void Retry();

  boost::asio::io_context& io_;
  const std::shared_ptr<GuestEndpoint> guest_;
  const Connect connect_;
  std::shared_ptr<GuestLink*> alive_ = std::make_shared<GuestLink*>(this);
  const std::shared_ptr<Connection> connection_ = std::make_shared<Connection>();
  bool reconnecting_ = false;
  boost::asio::steady_timer retry_timer_;
  uint64_t armed_ = 0;  // which expiry of it counts
  absl::Duration retry_delay_ = absl::ZeroDuration();
  std::unique_ptr<DeviceWorker> worker_;  // made when first needed
};

}  // namespace everport
