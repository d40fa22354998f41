#include "backend/keeper/control_server.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "backend/base/log.h"
#include "backend/base/send_fds.h"
#include "backend/keeper/unix_socket.h"

namespace everport {

namespace {

constexpr int kSendBuffer = 4 << 20;     // the default holds under 300 packets
constexpr size_t kMaxQueued = 4 << 20;   // bytes that wait for one connection beyond that
constexpr size_t kPacketOverhead = 128;  // of memory, for a packet that waits

struct Packet {
  std::string text;
  UniqueFd fd;  // to go with it, or none
};

// False with errno when the socket does not take it.
bool SendPacket(int socket, const std::string& text, int fd) {
  const std::span<const int> fds(&fd, fd >= 0 ? 1 : 0);
  return SendWithFds(socket, text.data(), text.size(), fds, MSG_NOSIGNAL | MSG_DONTWAIT) ==
         static_cast<ssize_t>(text.size());
}

// As large as we may: beyond wmem_max takes CAP_NET_ADMIN.
void EnlargeSendBuffer(int socket) {
  if (::setsockopt(socket, SOL_SOCKET, SO_SNDBUFFORCE, &kSendBuffer, sizeof kSendBuffer) != 0)
    ::setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &kSendBuffer, sizeof kSendBuffer);
}

}  // namespace

struct ControlServer::Client {
  Client(boost::asio::io_context& io, UniqueFd socket, std::function<void()> readable, std::function<void()> writable)
      : fd(std::move(socket)), watcher(io, fd.get(), std::move(readable), std::move(writable)) {}

  // Behind what waits already. False: the connection is of no use.
  bool Send(std::string text, int with) {
    if (waiting.empty()) {
      if (SendPacket(fd.get(), text, with)) return true;
      if (errno != EAGAIN) return false;
    }
    queued += text.size() + kPacketOverhead;
    if (queued > kMaxQueued) return false;
    UniqueFd copy(with < 0 ? -1 : ::fcntl(with, F_DUPFD_CLOEXEC, 0));
    if (with >= 0 && !copy.valid()) return false;
    waiting.push_back({std::move(text), std::move(copy)});
    watcher.WantWrite(true);
    return true;
  }
  bool Flush() {
    while (!waiting.empty()) {
      const Packet& first = waiting.front();
      if (!SendPacket(fd.get(), first.text, first.fd.get())) return errno == EAGAIN;
      queued -= first.text.size() + kPacketOverhead;
      waiting.pop_front();
    }
    watcher.WantWrite(false);
    return true;
  }

  UniqueFd fd;
  std::deque<Packet> waiting;
  size_t queued = 0;  // bytes in waiting
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
      accept_(io, path_, listener_.get(), [this](UniqueFd fd) { Accept(std::move(fd)); }) {
  accept_.Want(true);
}

ControlServer::~ControlServer() {
  ::unlink(path_.c_str());
}

void ControlServer::Accept(UniqueFd fd) {
  EnlargeSendBuffer(fd.get());
  const int id = next_id_++;
  auto client = std::make_unique<Client>(
      io_, std::move(fd), [this, id] { Read(id); }, [this, id] { Flush(id); });
  client->watcher.WantRead(true);
  clients_.emplace(id, std::move(client));
}

void ControlServer::Flush(int id) {
  if (!clients_.at(id)->Flush()) Drop(id);
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
    if (!Send(client, ControlReply{true, {}, added->socket, {}}, added->index_page_fd)) return false;
    // What the session did while it was being made, nobody could be told.
    if (added->state != SessionState::kWaiting)
      Push(client.daemon, SessionEvent{add->port.name, added->state, added->reason, added->postcopy});
    return true;
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
  return client.Send(std::move(packet), fd);
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
