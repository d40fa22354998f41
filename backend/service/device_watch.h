#pragma once

#include <libudev.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/host/netlink.h"

namespace everport {

// What the kernel announces of devices: a driver was bound, a node has come, a network device has lost its carrier.
// Control thread.
//
// Two sources. uevents of the kernel itself (not udevd's, which need not run) for PCI, vDPA, vhost-vdpa, VFIO and misc
// devices; rtnetlink for network devices of the process's network namespace.
class DeviceWatch {
 public:
  struct Callbacks {
    // A device was added, bound to a driver or changed. Its name in sysfs: "0000:01:10.0", "vhost-vdpa-0", "vhost-net",
    // of a VFIO group its number. Empty: announcements were lost, it may be any.
    std::function<void(const std::string& name)> on_device;
    // A network device has come, gone (present false) or changed in some way. running: it is up and has a carrier.
    // A renamed one goes under its old name and comes under the new one.
    std::function<void(const std::string& name, unsigned ifindex, bool present, bool running)> on_netdev;
  };
  // Callbacks come from handlers of io, never from within Start. Unavailable, naming the source, if one cannot be had.
  static absl::StatusOr<std::unique_ptr<DeviceWatch>> Start(boost::asio::io_context& io, Callbacks callbacks);
  ~DeviceWatch();
  DeviceWatch(const DeviceWatch&) = delete;
  DeviceWatch& operator=(const DeviceWatch&) = delete;

  // A network device as it is now, as on_netdev would tell; NotFound without such a device.
  static absl::StatusOr<netlink::Link> Get(const std::string& name) { return netlink::GetLinkState(name); }

 private:
  DeviceWatch(boost::asio::io_context& io, Callbacks callbacks);
  absl::Status WatchDevices();
  absl::Status WatchNetdevs();
  void AwaitDevices();
  void AwaitNetdevs();
  void ReadDevices();
  void ReadNetdevs();
  void Compare();
  void Note(const netlink::Link& link);
  void NoteGone(unsigned index);

  const Callbacks callbacks_;
  std::shared_ptr<DeviceWatch*> alive_ = std::make_shared<DeviceWatch*>(this);
  std::unique_ptr<udev, udev* (*)(udev*)> udev_{nullptr, udev_unref};
  std::unique_ptr<udev_monitor, udev_monitor* (*)(udev_monitor*)> monitor_{nullptr, udev_monitor_unref};
  boost::asio::posix::stream_descriptor devices_, netdevs_;
  std::map<unsigned, std::string> names_;  // of network devices, by index
};

}  // namespace everport
