#include "backend/service/device_watch.h"

#include <fcntl.h>

#include <cerrno>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "backend/base/log.h"

namespace everport {
namespace {

constexpr const char* kSubsystems[] = {"pci", "vdpa", "vhost-vdpa", "vfio", "misc"};
constexpr int kBufferBytes = 1 << 20;     // 128 VFs made at once are some 500 announcements of 2 KiB each in the socket
constexpr size_t kDatagramBytes = 32768;  // the kernel's largest of a notification (NLMSG_GOODSIZE) is less

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceWatch>> DeviceWatch::Start(boost::asio::io_context& io, Callbacks callbacks) {
  std::unique_ptr<DeviceWatch> watch(new DeviceWatch(io, std::move(callbacks)));
  if (absl::Status status = watch->WatchDevices(); !status.ok()) return status;
  if (absl::Status status = watch->WatchNetdevs(); !status.ok()) return status;
  return watch;
}

DeviceWatch::DeviceWatch(boost::asio::io_context& io, Callbacks callbacks)
    : callbacks_(std::move(callbacks)), devices_(io), netdevs_(io) {}

DeviceWatch::~DeviceWatch() = default;

absl::Status DeviceWatch::WatchDevices() {
  const auto failed = [](int error) {
    return absl::UnavailableError(absl::StrCat("device events of the kernel cannot be had (", strerror(error),
                                               "); is NETLINK_KOBJECT_UEVENT denied?"));
  };
  udev_.reset(udev_new());
  if (!udev_) return failed(errno);
  monitor_.reset(udev_monitor_new_from_netlink(udev_.get(), "kernel"));
  if (!monitor_) return failed(errno);
  for (const char* subsystem : kSubsystems)
    udev_monitor_filter_add_match_subsystem_devtype(monitor_.get(), subsystem, nullptr);
  udev_monitor_set_receive_buffer_size(monitor_.get(), kBufferBytes);  // without CAP_NET_ADMIN the default must do
  if (int error = udev_monitor_enable_receiving(monitor_.get()); error < 0) return failed(-error);
  // The monitor closes its own.
  const int fd = fcntl(udev_monitor_get_fd(monitor_.get()), F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return failed(errno);
  devices_.assign(fd);
  AwaitDevices();
  return absl::OkStatus();
}

absl::Status DeviceWatch::WatchNetdevs() {
  auto fd = netlink::Open(RTMGRP_LINK);
  if (!fd.ok()) return fd.status();
  netdevs_.assign(fd->release());
  // After the subscription: nothing falls between.
  auto links = netlink::ListLinks();
  if (!links.ok()) return links.status();
  for (netlink::Link& link : *links) names_[link.index] = std::move(link.name);
  AwaitNetdevs();
  return absl::OkStatus();
}

void DeviceWatch::AwaitDevices() {
  devices_.async_wait(devices_.wait_read, [this, weak = std::weak_ptr<DeviceWatch*>(alive_)](const auto& error) {
    if (error || weak.expired()) return;
    ReadDevices();
    if (!weak.expired()) AwaitDevices();
  });
}

void DeviceWatch::AwaitNetdevs() {
  netdevs_.async_wait(netdevs_.wait_read, [this, weak = std::weak_ptr<DeviceWatch*>(alive_)](const auto& error) {
    if (error || weak.expired()) return;
    ReadNetdevs();
    if (!weak.expired()) AwaitNetdevs();
  });
}

void DeviceWatch::ReadDevices() {
  const std::weak_ptr<DeviceWatch*> weak(alive_);
  while (!weak.expired()) {
    errno = 0;
    const std::unique_ptr<udev_device, udev_device* (*)(udev_device*)> device(
        udev_monitor_receive_device(monitor_.get()), udev_device_unref);
    if (!device) {
      if (errno != ENOBUFS) return;  // no more; a message that is none of ours ends a round as well
      callbacks_.on_device("");
      continue;
    }
    const char* action = udev_device_get_action(device.get());
    const std::string_view what = action ? action : "";
    const char* name = udev_device_get_sysname(device.get());
    if (name && (what == "add" || what == "bind" || what == "change")) callbacks_.on_device(name);
  }
}

void DeviceWatch::ReadNetdevs() {
  const std::weak_ptr<DeviceWatch*> weak(alive_);
  std::vector<uint8_t> data(kDatagramBytes);
  while (!weak.expired()) {
    const ssize_t size = recv(netdevs_.native_handle(), data.data(), data.size(), MSG_DONTWAIT);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && errno == ENOBUFS) {
      Compare();
      continue;
    }
    if (size <= 0) return;
    netlink::ForEachMessage(data.data(), static_cast<size_t>(size), [&](const nlmsghdr& message) {
      const auto link = netlink::ParseLink(message);
      if (!link || weak.expired()) return;
      if (message.nlmsg_type == RTM_NEWLINK) {
        Note(*link);
      } else {
        NoteGone(link->index);
      }
    });
  }
}

// Announcements were lost: what is there now tells.
void DeviceWatch::Compare() {
  const std::weak_ptr<DeviceWatch*> weak(alive_);
  const auto links = netlink::ListLinks();
  if (!links.ok()) {
    spdlog::warn("network devices: {}", std::string(links.status().message()));
    return;
  }
  std::map<unsigned, std::string> before = names_;
  for (const netlink::Link& link : *links) before.erase(link.index);
  for (const auto& [index, name] : before) {
    if (!weak.expired()) NoteGone(index);
  }
  for (const netlink::Link& link : *links) {
    if (!weak.expired()) Note(link);
  }
}

void DeviceWatch::Note(const netlink::Link& link) {
  const std::weak_ptr<DeviceWatch*> weak(alive_);
  const auto known = names_.find(link.index);
  if (known != names_.end() && known->second != link.name) NoteGone(link.index);
  if (weak.expired()) return;
  names_[link.index] = link.name;
  callbacks_.on_netdev(link.name, link.index, true, link.running);
}

void DeviceWatch::NoteGone(unsigned index) {
  const auto known = names_.find(index);
  if (known == names_.end()) return;
  const std::string name = std::move(known->second);
  names_.erase(known);
  callbacks_.on_netdev(name, index, false, false);
}

}  // namespace everport
