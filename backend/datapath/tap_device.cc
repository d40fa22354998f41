#include "backend/datapath/tap_device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "backend/base/log.h"
#include "backend/base/unique_fd.h"
#include "backend/host/netlink.h"

namespace everport {
namespace {

std::string AliasPath(const std::string& name) {
  return absl::StrCat("/sys/class/net/", name, "/ifalias");
}
std::string Alias(const std::string& owner) {
  return absl::StrCat("everport:", owner);
}

ifreq Request(const std::string& name) {
  ifreq request{};
  std::strncpy(request.ifr_name, name.c_str(), IFNAMSIZ - 1);
  return request;
}

unsigned NumberOf(const std::string& name, const char* file) {  // written as 0x…
  std::ifstream in(absl::StrCat("/sys/class/net/", name, "/", file));
  unsigned number = 0;
  in >> std::hex >> number;
  return number;
}

// Whether a program has it open: its carrier, whether it is up or not.
bool IsHeld(const std::string& name) {
  const auto answer = netlink::GetLink(name, RTEXT_FILTER_SKIP_STATS);
  bool held = false;
  if (!answer.ok()) return held;
  netlink::ForEachMessage(answer->data(), answer->size(), [&](const nlmsghdr& message) {
    const auto attributes = netlink::LinkAttributes(message);
    const auto* carrier = netlink::Find(attributes, IFLA_CARRIER);
    const auto* on = carrier ? carrier->as<uint8_t>() : nullptr;
    held |= on && *on != 0;
  });
  return held;
}

// What a device is that the kernel does not open as a tap with several queues. It is not ours, then, and others may
// need it.
std::string KindOf(const std::string& name) {
  std::error_code error;
  const auto has = [&](const char* file) {
    return std::filesystem::exists(absl::StrCat("/sys/class/net/", name, "/", file), error);
  };
  if (has("tun_flags")) {
    if (!(NumberOf(name, "tun_flags") & IFF_TAP)) return "is a tun device, not a tap; choose another name";
    if (IsHeld(name)) return "is a tap with one queue, in use by another program; choose another name";
    return "is a tap with one queue; choose another name, or make one with: ip tuntap add mode tap multi_queue dev …";
  }
  const char* const kind = has("bridge")                            ? "a bridge"
                           : NumberOf(name, "flags") & IFF_LOOPBACK ? "the host's loopback interface"
                           : has("device")                          ? "a NIC of this host's"
                                                                    : "a network interface of another kind";
  return absl::StrCat("is ", kind, ", not a tap; choose another name");
}

}  // namespace

absl::StatusOr<UniqueFd> OpenTapQueue(const std::string& name) {
  UniqueFd fd(open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid())
    return absl::UnavailableError(absl::StrCat("tap ", name, ": /dev/net/tun: ", strerror(errno), "; modprobe tun"));
  ifreq request = Request(name);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE | IFF_VNET_HDR;
  if (ioctl(fd.get(), TUNSETIFF, &request) == 0) return fd;
  switch (errno) {
    case EPERM:
      return absl::PermissionDeniedError(absl::StrCat("tap ", name, ": not permitted; everportd needs CAP_NET_ADMIN"));
    case EINVAL:
      return absl::FailedPreconditionError(absl::StrCat("tap ", name, ": ", name, " ", KindOf(name)));
    case EBUSY:
      return absl::FailedPreconditionError(
          absl::StrCat("tap ", name, ": in use by another program; choose another name"));
    default:
      return absl::ErrnoToStatus(errno, absl::StrCat("tap ", name));
  }
}

namespace {

UniqueFd ControlSocket() {
  return UniqueFd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
}

}  // namespace

absl::Status EnsureTap(const std::string& name, const std::string& owner, const uint8_t host_mac[6]) {
  const bool existed = if_nametoindex(name.c_str()) != 0;
  absl::StatusOr<UniqueFd> fd = OpenTapQueue(name);
  if (!fd.ok()) return fd.status();
  if (existed) return absl::OkStatus();
  if (ioctl(fd->get(), TUNSETPERSIST, 1) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("tap ", name, ": persist"));
  ifreq request = Request(name);
  request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
  std::memcpy(request.ifr_hwaddr.sa_data, host_mac, 6);
  if (ioctl(fd->get(), SIOCSIFHWADDR, &request) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("tap ", name, ": MAC"));
  std::ofstream alias(AliasPath(name));
  if (!(alias << Alias(owner) << std::flush))
    spdlog::warn("tap {}: no alias could be set ({}); the device will stay when the port is removed", name,
                 strerror(errno));
  return absl::OkStatus();
}

absl::Status RemoveTap(const std::string& name, const std::string& owner) {
  std::string alias;
  std::ifstream file(AliasPath(name));
  if (!std::getline(file, alias) || alias != Alias(owner)) return absl::OkStatus();
  absl::StatusOr<UniqueFd> fd = OpenTapQueue(name);
  if (!fd.ok()) return fd.status();
  if (ioctl(fd->get(), TUNSETPERSIST, 0) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("tap ", name, ": remove"));
  return absl::OkStatus();
}

absl::Status CheckNetdev(const std::string& name) {
  if (if_nametoindex(name.c_str()) != 0) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat("network device ", name, " does not exist here; see `ip link`, and check the name"));
}

absl::Status SetUp(const std::string& name) {
  UniqueFd fd = ControlSocket();
  ifreq request = Request(name);
  if (ioctl(fd.get(), SIOCGIFFLAGS, &request) != 0) return absl::ErrnoToStatus(errno, absl::StrCat(name, ": flags"));
  if (request.ifr_flags & IFF_UP) return absl::OkStatus();
  request.ifr_flags |= IFF_UP;
  if (ioctl(fd.get(), SIOCSIFFLAGS, &request) != 0) return absl::ErrnoToStatus(errno, absl::StrCat(name, ": set up"));
  return absl::OkStatus();
}

absl::Status SetMtu(const std::string& name, uint16_t mtu) {
  UniqueFd fd = ControlSocket();
  ifreq request = Request(name);
  request.ifr_mtu = mtu;
  if (ioctl(fd.get(), SIOCSIFMTU, &request) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat(name, ": MTU ", mtu, "; lower the port's mtu"));
  return absl::OkStatus();
}

absl::Status CheckMtu(const std::string& name, uint16_t mtu) {
  UniqueFd fd = ControlSocket();
  ifreq request = Request(name);
  if (ioctl(fd.get(), SIOCGIFMTU, &request) != 0) return absl::ErrnoToStatus(errno, absl::StrCat(name, ": MTU"));
  if (request.ifr_mtu >= mtu) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(name, ": its MTU is ", request.ifr_mtu, ", the port's ", mtu,
                                                    "; ip link set ", name, " mtu ", mtu, ", or lower the port's"));
}

absl::Status JoinBridge(const std::string& name, const std::string& bridge) {
  std::error_code error;
  const auto master = std::filesystem::read_symlink(absl::StrCat("/sys/class/net/", name, "/master"), error);
  if (!error && master.filename() == bridge) return absl::OkStatus();
  UniqueFd fd = ControlSocket();
  ifreq request = Request(bridge);
  request.ifr_ifindex = static_cast<int>(if_nametoindex(name.c_str()));
  if (ioctl(fd.get(), SIOCBRADDIF, &request) == 0) return absl::OkStatus();
  switch (errno) {
    case ENODEV:
      return absl::NotFoundError(absl::StrCat("bridge ", bridge, " does not exist; ip link add ", bridge,
                                              " type bridge && ip link set ", bridge, " up"));
    case EOPNOTSUPP:
      return absl::InvalidArgumentError(absl::StrCat(bridge, " is not a bridge; name one, or leave bridge out"));
    case EBUSY:
      return absl::FailedPreconditionError(
          absl::StrCat(name, " is in another bridge already; ip link set ", name, " nomaster"));
    default:
      return absl::ErrnoToStatus(errno, absl::StrCat(name, ": join bridge ", bridge));
  }
}

}  // namespace everport
