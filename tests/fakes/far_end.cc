#include "tests/fakes/far_end.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/socket.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "tests/fakes/test_frame.h"

namespace everport::fakes {

absl::StatusOr<std::unique_ptr<PacketFarEnd>> PacketFarEnd::Open(const std::string& interface, uint16_t type) {
  UniqueFd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int size = 16 << 20, on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
  ::setsockopt(fd.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on);
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(type);
  address.sll_ifindex = static_cast<int>(::if_nametoindex(interface.c_str()));
  if (address.sll_ifindex == 0 || ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("network interface ", interface));
  packet_mreq all{};
  all.mr_ifindex = address.sll_ifindex;
  all.mr_type = PACKET_MR_PROMISC;
  ::setsockopt(fd.get(), SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all);
  return std::unique_ptr<PacketFarEnd>(new PacketFarEnd(std::move(fd)));
}

void PacketFarEnd::Poll(const OnFrame& on_frame) {
  uint8_t frame[2048];
  for (;;) {
    const ssize_t n = ::recv(fd_.get(), frame, sizeof frame, 0);
    if (n <= 0) return;
    on_frame({frame, static_cast<size_t>(n)});
  }
}

bool PacketFarEnd::Send(std::span<const uint8_t> frame) {
  return ::send(fd_.get(), frame.data(), frame.size(), 0) > 0;
}

}  // namespace everport::fakes
