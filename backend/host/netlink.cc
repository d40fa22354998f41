#include "backend/host/netlink.h"

#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace everport::netlink {
namespace {

constexpr int kAnswerMs = 2000;  // the kernel answers within the send call; this is for the impossible

struct LinkRequest {
  nlmsghdr header;
  ifinfomsg link;
  char attributes[128];
};

void Append(LinkRequest& request, uint16_t type, const void* data, size_t size) {
  auto* attribute =
      reinterpret_cast<rtattr*>(reinterpret_cast<char*>(&request) + NLMSG_ALIGN(request.header.nlmsg_len));
  attribute->rta_type = type;
  attribute->rta_len = static_cast<uint16_t>(RTA_LENGTH(size));
  std::memcpy(RTA_DATA(attribute), data, size);
  request.header.nlmsg_len = static_cast<uint32_t>(NLMSG_ALIGN(request.header.nlmsg_len) + RTA_SPACE(size));
}

absl::StatusOr<std::vector<uint8_t>> Receive(int fd) {
  pollfd waiting{fd, POLLIN, 0};
  if (poll(&waiting, 1, kAnswerMs) != 1) return absl::DeadlineExceededError("rtnetlink: no answer");
  const ssize_t size = recv(fd, nullptr, 0, MSG_PEEK | MSG_TRUNC);
  if (size < 0) return absl::ErrnoToStatus(errno, "rtnetlink");
  std::vector<uint8_t> data(static_cast<size_t>(size));
  if (recv(fd, data.data(), data.size(), 0) != size) return absl::ErrnoToStatus(errno, "rtnetlink");
  return data;
}

}  // namespace

absl::StatusOr<UniqueFd> Open(uint32_t groups) {
  UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, "rtnetlink socket");
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = groups;
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return absl::ErrnoToStatus(errno, "rtnetlink bind");
  return fd;
}

absl::StatusOr<std::vector<uint8_t>> GetLink(const std::string& interface, uint32_t ext_mask) {
  auto fd = Open(0);
  if (!fd.ok()) return fd.status();
  if (interface.empty() || interface.size() >= IFNAMSIZ)
    return absl::InvalidArgumentError(absl::StrCat("\"", interface, "\" is no interface name"));
  LinkRequest request{};
  request.header.nlmsg_len = NLMSG_LENGTH(sizeof(ifinfomsg));
  request.header.nlmsg_type = RTM_GETLINK;
  request.header.nlmsg_flags = NLM_F_REQUEST;
  Append(request, IFLA_IFNAME, interface.c_str(), interface.size() + 1);
  if (ext_mask) Append(request, IFLA_EXT_MASK, &ext_mask, sizeof ext_mask);
  if (send(fd->get(), &request, request.header.nlmsg_len, 0) < 0) return absl::ErrnoToStatus(errno, "rtnetlink");
  auto data = Receive(fd->get());
  if (!data.ok()) return data.status();
  int error = EPROTO;
  ForEachMessage(data->data(), data->size(), [&](const nlmsghdr& message) {
    if (message.nlmsg_type == RTM_NEWLINK) error = 0;
    if (message.nlmsg_type == NLMSG_ERROR && message.nlmsg_len >= NLMSG_LENGTH(sizeof(nlmsgerr)))
      error = -static_cast<const nlmsgerr*>(NLMSG_DATA(&message))->error;
  });
  if (error == 0) return data;
  return absl::ErrnoToStatus(error, absl::StrCat("network interface ", interface));
}

std::optional<Link> ParseLink(const nlmsghdr& message) {
  const ifinfomsg* link = LinkHeader(message);
  if (!link || link->ifi_family != AF_UNSPEC) return std::nullopt;
  const auto attributes = LinkAttributes(message);
  const Attribute* name = Find(attributes, IFLA_IFNAME);
  if (!name) return std::nullopt;
  return Link{std::string(name->text()), static_cast<unsigned>(link->ifi_index), (link->ifi_flags & IFF_RUNNING) != 0};
}

absl::StatusOr<Link> GetLinkState(const std::string& interface) {
  const auto answer = GetLink(interface, RTEXT_FILTER_SKIP_STATS);
  if (!answer.ok()) return answer.status();
  std::optional<Link> found;
  ForEachMessage(answer->data(), answer->size(), [&](const nlmsghdr& message) { found = ParseLink(message); });
  if (found) return *found;
  return absl::InternalError(absl::StrCat("network interface ", interface, ": rtnetlink's answer is not understood"));
}

absl::StatusOr<std::vector<Link>> ListLinks() {
  auto fd = Open(0);
  if (!fd.ok()) return fd.status();
  LinkRequest request{};
  request.header.nlmsg_len = NLMSG_LENGTH(sizeof(ifinfomsg));
  request.header.nlmsg_type = RTM_GETLINK;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  const uint32_t ext_mask = RTEXT_FILTER_SKIP_STATS;
  Append(request, IFLA_EXT_MASK, &ext_mask, sizeof ext_mask);
  if (send(fd->get(), &request, request.header.nlmsg_len, 0) < 0) return absl::ErrnoToStatus(errno, "rtnetlink");
  std::vector<Link> links;
  for (bool done = false; !done;) {
    const auto data = Receive(fd->get());
    if (!data.ok()) return data.status();
    ForEachMessage(data->data(), data->size(), [&](const nlmsghdr& message) {
      done |= message.nlmsg_type == NLMSG_DONE || message.nlmsg_type == NLMSG_ERROR;
      if (auto link = ParseLink(message)) links.push_back(*std::move(link));
    });
  }
  return links;
}

void ForEachMessage(const uint8_t* data, size_t size, const std::function<void(const nlmsghdr&)>& call) {
  while (size >= sizeof(nlmsghdr)) {
    const auto* message = reinterpret_cast<const nlmsghdr*>(data);
    if (message->nlmsg_len < sizeof(nlmsghdr) || message->nlmsg_len > size) return;
    call(*message);
    const size_t step = std::min<size_t>(NLMSG_ALIGN(message->nlmsg_len), size);
    data += step;
    size -= step;
  }
}

std::string_view Attribute::text() const {
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  return all.substr(0, all.find('\0'));
}

std::vector<Attribute> Attributes(const uint8_t* data, size_t size) {
  std::vector<Attribute> found;
  while (size >= sizeof(rtattr)) {
    const auto* attribute = reinterpret_cast<const rtattr*>(data);
    if (attribute->rta_len < sizeof(rtattr) || attribute->rta_len > size) break;
    found.push_back({static_cast<uint16_t>(attribute->rta_type & NLA_TYPE_MASK), data + RTA_LENGTH(0),
                     attribute->rta_len - RTA_LENGTH(0)});
    const size_t step = std::min<size_t>(RTA_ALIGN(attribute->rta_len), size);
    data += step;
    size -= step;
  }
  return found;
}

const ifinfomsg* LinkHeader(const nlmsghdr& message) {
  const bool link = message.nlmsg_type == RTM_NEWLINK || message.nlmsg_type == RTM_DELLINK;
  if (!link || message.nlmsg_len < NLMSG_LENGTH(sizeof(ifinfomsg))) return nullptr;
  return static_cast<const ifinfomsg*>(NLMSG_DATA(&message));
}

std::vector<Attribute> LinkAttributes(const nlmsghdr& message) {
  const ifinfomsg* link = LinkHeader(message);
  if (!link) return {};
  return Attributes(reinterpret_cast<const uint8_t*>(link) + NLMSG_ALIGN(sizeof(ifinfomsg)),
                    message.nlmsg_len - NLMSG_SPACE(sizeof(ifinfomsg)));
}

const Attribute* Find(const std::vector<Attribute>& attributes, uint16_t type) {
  for (const Attribute& attribute : attributes) {
    if (attribute.type == type) return &attribute;
  }
  return nullptr;
}

}  // namespace everport::netlink
