#include "backend/keeper/control_server.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "backend/base/log.h"
#include "backend/keeper/unix_socket.h"

namespace everport {

struct ControlServer::Client {
  Client(boost::asio::io_context& io, UniqueFd socket, std::function<void()> readable)
      : fd(std::move(socket)), watcher(io, fd.get(), std::move(readable)) {}
  UniqueFd fd;
  FdWatcher watcher;
  bool greeted = false;
  std::string daemon;
};

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Listen(boost::asio::io_context& io,
                                                                     const std::string& path, Ports& ports) {
  absl::StatusOr<UniqueFd> listener = ListenUnix(path, SOCK_SEQPACKET);
  if (!listener.ok()) return listener.status();
  return std::unique_ptr<ControlServer>(new ControlServer(io, path, *std::move(listener), ports));
}

ControlServer::ControlServer(boost::asio::io_context& io, std::string path, UniqueFd listener, Ports& ports)
    : io_(io),
      path_(std::move(path)),
      ports_(ports),
      listener_(std::move(listener)),
      accept_(io, listener_.get(), [this] { Accept(); }) {
  accept_.WantRead(true);
}

ControlServer::~ControlServer() {
  ::unlink(path_.c_str());
}

void ControlServer::Accept() {
  UniqueFd fd = AcceptUnix(listener_.get());
  if (!fd.valid()) return;
  const int id = next_id_++;
  auto client = std::make_unique<Client>(io_, std::move(fd), [this, id] { Read(id); });
  client->watcher.WantRead(true);
  clients_.emplace(id, std::move(client));
}

void ControlServer::Drop(int id) {
  const auto found = clients_.find(id);
  if (found == clients_.end()) return;
  if (found->second->greeted) spdlog::info("daemon \"{}\": control connection closed", found->second->daemon);
  clients_.erase(found);
}

void ControlServer::Read(int id) {
  // One request a time round: between two of them the sessions get their turn.
  Client& client = *clients_.at(id);
  static std::string buffer(kMaxControlMessage, '\0');
  iovec part{buffer.data(), buffer.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  const ssize_t got = ::recvmsg(client.fd.get(), &header, MSG_DONTWAIT);  // descriptors sent to us are discarded
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) return Drop(id);
  absl::StatusOr<ControlRequest> request = header.msg_flags & MSG_TRUNC
                                               ? absl::InvalidArgumentError("request too long")
                                               : DecodeRequest({buffer.data(), static_cast<size_t>(got)});
  const bool useful = request.ok() ? Answer(client, *request)
                                   : Send(client, ControlReply{false, std::string(request.status().message()), {}, {}});
  if (!useful) Drop(id);
}

bool ControlServer::Answer(Client& client, const ControlRequest& request) {
  const auto refuse = [&](std::string why) { return Send(client, ControlReply{false, std::move(why), {}, {}}); };
  if (const auto* hello = std::get_if<HelloRequest>(&request)) {
    if (hello->version != kControlVersion)
      return refuse(absl::StrCat("control protocol ", hello->version, "; this keeper speaks ", kControlVersion));
    if (hello->daemon.empty() || hello->daemon.size() > 64) return refuse("\"daemon\" is 1 to 64 bytes");
    client.greeted = true;
    client.daemon = hello->daemon;
    spdlog::info("daemon \"{}\": control connection", client.daemon);
    return Send(client, ControlReply{true, {}, {}, {}});
  }
  if (!client.greeted) return refuse("say hello first");
  if (const auto* add = std::get_if<AddRequest>(&request)) {
    const absl::StatusOr<Ports::Added> added = ports_.Add(add->port, client.daemon);
    if (!added.ok()) return refuse(std::string(added.status().message()));
    return Send(client, ControlReply{true, {}, added->socket, {}}, added->index_page_fd);
  }
  if (const auto* remove = std::get_if<RemoveRequest>(&request)) {
    const absl::Status removed = ports_.Remove(remove->name, client.daemon);
    return removed.ok() ? Send(client, ControlReply{true, {}, {}, {}}) : refuse(std::string(removed.message()));
  }
  return Send(client, ControlReply{true, {}, {}, ports_.List(client.daemon)});
}

bool ControlServer::Send(Client& client, const ControlMessage& message, int fd) {
  std::string packet = EncodeMessage(message);
  if (packet.size() > kMaxControlMessage && std::holds_alternative<ControlReply>(message)) {
    // A list: what makes it long are the reasons.
    ControlReply reply = std::get<ControlReply>(message);
    for (PortSession& port : reply.ports) port.reason.clear();
    packet = EncodeMessage(reply);
  }
  iovec part{packet.data(), packet.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (fd >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
  }
  return ::sendmsg(client.fd.get(), &header, MSG_NOSIGNAL | MSG_DONTWAIT) == static_cast<ssize_t>(packet.size());
}

void ControlServer::Push(const std::string& owner, const ControlMessage& event) {
  std::vector<int> lost;
  for (auto& [id, client] : clients_) {
    if (!client->greeted || client->daemon != owner || Send(*client, event)) continue;
    lost.push_back(id);
  }
  for (const int id : lost) {
    spdlog::warn("daemon \"{}\": does not read its events; control connection closed", owner);
    // Not from within its own callback: a request may be under way on this connection.
    ::shutdown(clients_.at(id)->fd.get(), SHUT_RDWR);
  }
}

}  // namespace everport
