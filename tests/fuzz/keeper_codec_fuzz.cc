// What a front-end can send, through a real socket: pieces of any length with any number of descriptors. The input is a
// list of pieces: length, descriptors (low nibble), bytes. Besides not crashing:
//   - no descriptor stays open;
//   - a message that passes CheckForm is within its rule, and a memory table survives the way back.

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "backend/base/send_fds.h"
#include "backend/vhost_user/channel.h"
#include "backend/vhost_user/codec.h"

namespace everport::vhost_user {
namespace {

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "property does not hold: %s\n", what);
  std::abort();
}

void Throw(int socket, const uint8_t* bytes, size_t size, unsigned descriptors, int fd) {
  const std::vector<int> fds(descriptors, fd);
  (void)!SendWithFds(socket, bytes, size, fds, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void CheckMessage(const Message& message) {
  Require(message.payload.size() <= kMaxPayload && message.fds.size() <= kMaxFds, "a message within limits");
  const absl::Status status = CheckForm(message);
  Require(status.ok() || !status.message().empty(), "a refusal says why");
  if (!status.ok()) return;
  Require((message.flags & kVersionMask) == kVersion, "version 1");
  if (const RequestRule* rule = FindRule(message.request)) {
    Require(message.payload.size() >= rule->min_payload && message.payload.size() <= rule->max_payload, "payload");
    Require(message.fds.size() >= rule->min_fds && message.fds.size() <= rule->max_fds, "descriptors");
  }
  if (message.request != Request::kSetMemTable) return;
  const std::vector<MemoryRegion> regions = DecodeMemTable(message);
  Require(!regions.empty() && regions.size() <= kMaxMemoryRegions, "1 to 8 regions");
  const Message again = EncodeMemTable(regions, 0);
  Require(std::equal(again.payload.begin() + 8, again.payload.end(), message.payload.begin() + 8), "regions survive");
}

// True while the channel is of use.
bool Drain(Channel& channel) {
  for (;;) {
    const auto message = channel.Receive();
    if (!message.ok()) return false;
    if (!message->has_value()) return true;
    CheckMessage(**message);
  }
}

}  // namespace
}  // namespace everport::vhost_user

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace everport;
  static const int any = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  const int lowest_free = ::dup(any);
  ::close(lowest_free);
  {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return 0;
    vhost_user::Channel channel{UniqueFd(pair[0])};
    const UniqueFd peer(pair[1]);
    bool useful = true;
    while (size >= 2 && useful) {
      const size_t length = std::min<size_t>(data[0], size - 2);
      if (length > 0) vhost_user::Throw(peer.get(), data + 2, length, data[1] & 0xf, any);
      data += 2 + length;
      size -= 2 + length;
      useful = vhost_user::Drain(channel);
    }
  }
  const int now = ::dup(any);
  ::close(now);
  vhost_user::Require(now == lowest_free, "no descriptor stays open");
  return 0;
}
