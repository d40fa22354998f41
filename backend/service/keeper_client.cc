#include "backend/service/keeper_client.h"

#include <errno.h>
#include <sys/socket.h>

#include <chrono>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "backend/base/log.h"
#include "backend/base/unix_address.h"

namespace everport {
namespace {

constexpr auto kRetry = std::chrono::milliseconds(100);
constexpr int kSendBuffer = 4 << 20;
// A keeper that is silent for so long hangs; nobody may wait for it.
constexpr auto kReplyDeadline = std::chrono::seconds(2);

absl::StatusOr<UniqueFd> ConnectTo(const std::string& path) {
  const absl::StatusOr<UnixAddress> address = UnixAddress::Of(path);
  if (!address.ok()) return address.status();
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  // 256 ports' requests at once do not fit into the default buffer.
  const int buffer = kSendBuffer;
  if (fd.valid() && setsockopt(fd.get(), SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer) != 0)
    (void)setsockopt(fd.get(), SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
  if (!fd.valid() || connect(fd.get(), address->get(), address->size()) != 0)
    return absl::UnavailableError(
        absl::StrCat(path, ": ", strerror(errno), "; start everport-keeper, or set keeper = false"));
  return fd;
}

}  // namespace

KeeperClient::KeeperClient(boost::asio::io_context& io, std::string socket, std::string daemon, Listener& listener)
    : socket_(io),
      retry_(io),
      deadline_(io),
      path_(std::move(socket)),
      daemon_(std::move(daemon)),
      listener_(listener) {}

KeeperClient::~KeeperClient() = default;

void KeeperClient::Start() {
  Connect();
}

void KeeperClient::Connect() {
  absl::StatusOr<UniqueFd> fd = ConnectTo(path_);
  if (fd.ok()) {
    socket_.assign(fd->release());
    Read();
    Greet();
    return;
  }
  const std::string trouble(fd.status().message());
  if (trouble != trouble_) {
    trouble_ = trouble;
    listener_.OnKeeperLost(trouble_);
  }
  retry_.expires_after(kRetry);
  retry_.async_wait([this](boost::system::error_code error) {
    if (!error) Connect();
  });
}

void KeeperClient::Greet() {
  Send(HelloRequest{kControlVersion, daemon_}, [this](absl::StatusOr<Answer> answer) {
    if (!answer.ok()) return Lose(std::string(answer.status().message()));
    greeted_ = true;
    trouble_.clear();
    listener_.OnKeeperConnected();
  });
}

void KeeperClient::Send(const ControlRequest& request, Done done) {
  const std::string packet = EncodeRequest(request);
  if (!socket_.is_open() || send(socket_.native_handle(), packet.data(), packet.size(), MSG_NOSIGNAL) < 0) {
    // EAGAIN: the keeper reads nothing any more; to us it is gone. The reader notices a closed one by itself.
    return done(absl::UnavailableError(absl::StrCat("keeper ", path_, ": ",
                                                    socket_.is_open() ? strerror(errno) : "not connected",
                                                    "; see `systemctl status everport-keeper`")));
  }
  waiting_.push_back(std::move(done));
  if (waiting_.size() == 1) ArmDeadline();
}

void KeeperClient::ArmDeadline() {
  if (waiting_.empty()) {
    deadline_.cancel();
    return;
  }
  deadline_.expires_after(kReplyDeadline);
  deadline_.async_wait([this](boost::system::error_code error) {
    // The handler may have been queued before the timer was set anew.
    if (error || waiting_.empty() || deadline_.expiry() > std::chrono::steady_clock::now()) return;
    Lose("no answer within 2 s");
  });
}

void KeeperClient::Read() {
  socket_.async_wait(boost::asio::posix::stream_descriptor::wait_read, [this](boost::system::error_code error) {
    if (error) return;  // closed by Lose, or the end
    while (socket_.is_open() && ReadOne()) {
    }
    if (socket_.is_open()) Read();
  });
}

bool KeeperClient::ReadOne() {
  static thread_local std::string buffer(kMaxControlMessage, '\0');
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  iovec part{buffer.data(), buffer.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t n = recvmsg(socket_.native_handle(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (n <= 0) {
    Lose(n == 0 ? "the keeper closed the connection" : strerror(errno));
    return false;
  }
  UniqueFd fd;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    int received;
    std::memcpy(&received, CMSG_DATA(c), sizeof received);
    fd.reset(received);
  }
  Take(std::string_view(buffer.data(), static_cast<size_t>(n)), std::move(fd));
  return true;
}

void KeeperClient::Take(std::string_view packet, UniqueFd fd) {
  absl::StatusOr<ControlMessage> message = DecodeMessage(packet);
  if (!message.ok()) return Lose(std::string(message.status().message()));
  if (auto* event = std::get_if<SessionEvent>(&*message)) return listener_.OnSession(*event);
  if (auto* event = std::get_if<AnnounceEvent>(&*message)) return listener_.OnAnnounce(*event);
  if (waiting_.empty()) return Lose("a reply that nobody asked for");
  Done done = std::move(waiting_.front());
  waiting_.pop_front();
  ArmDeadline();
  ControlReply& reply = std::get<ControlReply>(*message);
  if (!reply.ok) return done(absl::FailedPreconditionError(reply.error));
  done(Answer{std::move(reply), std::move(fd)});
}

void KeeperClient::Lose(const std::string& reason) {
  if (!socket_.is_open()) return;
  socket_.close();
  deadline_.cancel();
  greeted_ = false;
  trouble_ = absl::StrCat(path_, ": ", reason, "; see `systemctl status everport-keeper`");
  const auto waiting = std::exchange(waiting_, {});
  for (const Done& done : waiting) done(absl::UnavailableError(trouble_));
  listener_.OnKeeperLost(trouble_);
  retry_.expires_after(kRetry);
  retry_.async_wait([this](boost::system::error_code error) {
    if (!error) Connect();
  });
}

}  // namespace everport
