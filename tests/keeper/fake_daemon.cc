#include "tests/keeper/fake_daemon.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "backend/keeper/unix_socket.h"
#include "backend/vhost_user/codec.h"

namespace everport {

using vhost_user::Message;
using vhost_user::PayloadAs;
using vhost_user::Request;
using vhost_user::VringState;

namespace {

bool IsRingState(Request request) {
  return request == Request::kSetVringNum || request == Request::kSetVringBase || request == Request::kGetVringBase ||
         request == Request::kSetVringEnable;
}

}  // namespace

FakeDaemon::FakeDaemon(Options options)
    : options_(std::move(options)), stop_(::eventfd(0, EFD_CLOEXEC)), thread_([this] { Run(); }) {}

void FakeDaemon::Kill() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(stop_.get(), &one, sizeof one);
  thread_.join();
}

void FakeDaemon::Run() {
  pollfd stop{stop_.get(), POLLIN, 0};
  do {
    absl::StatusOr<UniqueFd> fd = ConnectUnix(options_.socket, SOCK_STREAM);
    if (!fd.ok()) continue;
    {
      std::lock_guard lock(mutex_);
      ++connections_;
      received_.clear();
    }
    vhost_user::Channel channel(*std::move(fd));
    Serve(channel);
  } while (::poll(&stop, 1, 1) == 0);
}

void FakeDaemon::Serve(vhost_user::Channel& channel) {
  for (;;) {
    pollfd fds[2] = {{stop_.get(), POLLIN, 0}, {channel.fd(), POLLIN, 0}};
    ::poll(fds, 2, -1);
    if (fds[0].revents) return;
    for (;;) {
      absl::StatusOr<std::optional<Message>> message = channel.Receive();
      if (!message.ok()) return;
      if (!message->has_value()) break;
      Answer(channel, **message);
      std::string text = vhost_user::RequestText((*message)->request);
      if (IsRingState((*message)->request)) {
        const auto state = PayloadAs<VringState>(**message);
        absl::StrAppend(&text, " ", state.index, " ", state.num);
      }
      std::lock_guard lock(mutex_);
      history_.push_back((*message)->request);
      received_.push_back({**std::move(message), std::move(text)});
      changed_.notify_all();
    }
  }
}

void FakeDaemon::Answer(vhost_user::Channel& channel, const Message& message) {
  if (options_.silent) return;
  Message reply;
  switch (message.request) {
    case Request::kGetFeatures:
      reply = MakeReply(message.request, options_.features);
      break;
    case Request::kGetProtocolFeatures:
      reply = MakeReply(message.request, options_.protocol_features);
      break;
    case Request::kGetQueueNum:
      reply = vhost_user::MakeReply(message.request, 128);
      break;
    case Request::kSetLogBase:
      reply = vhost_user::MakeMessage(message.request, vhost_user::kFlagReply);
      break;
    case Request::kGetVringBase:
      reply = vhost_user::MakeMessage(message.request, vhost_user::kFlagReply,
                                      VringState{PayloadAs<VringState>(message).index, options_.base});
      break;
    default:
      if (!message.need_reply()) return;
      reply = vhost_user::MakeReply(message.request, 0);
  }
  (void)channel.Send(std::move(reply));
}

bool FakeDaemon::WaitMessages(Request request, unsigned times, absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout), [&] {
    return std::count(history_.begin(), history_.end(), request) >= static_cast<std::ptrdiff_t>(times);
  });
}

unsigned FakeDaemon::connections() const {
  std::lock_guard lock(mutex_);
  return connections_;
}

std::vector<std::string> FakeDaemon::log() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> log;
  for (const Received& r : received_) log.push_back(r.text);
  return log;
}

int FakeDaemon::Fd(Request request, unsigned ring) const {
  std::lock_guard lock(mutex_);
  for (auto r = received_.rbegin(); r != received_.rend(); ++r)
    if (r->message.request == request && !r->message.fds.empty() && r->message.payload[0] == ring)
      return r->message.fds[0].get();
  return -1;
}

}  // namespace everport
