// The daemon's side of keeper.sock against a keeper played by the test.
#include "backend/service/keeper_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>

#include "backend/base/send_fds.h"
#include "backend/base/unix_address.h"

namespace everport {
namespace {

using std::chrono::seconds;
using ::testing::HasSubstr;

class KeeperClientTest : public ::testing::Test, public KeeperClient::Listener {
 protected:
  KeeperClientTest() {
    std::string path = ::testing::TempDir() + "keeper_client_XXXXXX";
    dir_ = mkdtemp(path.data());
  }
  ~KeeperClientTest() override { std::filesystem::remove_all(dir_); }

  void OnKeeperConnected() override { ++connected_; }
  void OnKeeperLost(const std::string& reason) override { lost_.push_back(reason); }
  void OnSession(const SessionEvent& event) override { sessions_.push_back(event.name + " " + event.reason); }
  void OnAnnounce(const AnnounceEvent& event) override { announced_.push_back(event.mac); }

  // The keeper's end.
  void Listen() {
    listener_.reset(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    const auto address = UnixAddress::Of(Path());
    ASSERT_TRUE(address.ok()) << address.status();
    ASSERT_EQ(bind(listener_.get(), address->get(), address->size()), 0);
    ASSERT_EQ(listen(listener_.get(), 4), 0);
  }
  void Accept() { peer_.reset(accept(listener_.get(), nullptr, nullptr)); }
  std::string Hear() {
    char buffer[4096];
    const ssize_t n = recv(peer_.get(), buffer, sizeof buffer, 0);
    return std::string(buffer, n > 0 ? static_cast<size_t>(n) : 0);
  }
  void Say(const ControlMessage& message, int fd = -1) {
    const std::string text = EncodeMessage(message);
    ASSERT_GT(SendWithFds(peer_.get(), text.data(), text.size(), std::span(&fd, fd >= 0 ? 1 : 0), 0), 0);
  }
  static ControlReply Ok() {
    ControlReply reply;
    reply.ok = true;
    return reply;
  }
  // Runs the client until a condition holds; false after ten seconds.
  template <typename Condition>
  bool Until(Condition holds) {
    const auto end = std::chrono::steady_clock::now() + seconds(10);
    while (!holds() && std::chrono::steady_clock::now() < end) io_.run_one_for(seconds(1));
    return holds();
  }
  void Greet() {
    Accept();
    EXPECT_THAT(Hear(), HasSubstr("hello"));
    Say(Ok());
    ASSERT_TRUE(Until([&, before = connected_] { return connected_ > before; }));
  }
  // Somebody waits to be accepted.
  bool HasPending() const {
    pollfd waiting{listener_.get(), POLLIN, 0};
    return poll(&waiting, 1, 0) == 1;
  }
  std::string Path() const { return dir_ + "/keeper.sock"; }

  std::string dir_;
  boost::asio::io_context io_;
  UniqueFd listener_, peer_;
  int connected_ = 0;
  std::vector<std::string> lost_, sessions_, announced_;
};

TEST_F(KeeperClientTest, SaysWhatToDoWhileThereIsNoKeeperAndConnectsWhenItComes) {
  KeeperClient client(io_, Path(), "a", *this);
  client.Start();
  ASSERT_EQ(lost_.size(), 1u);
  EXPECT_THAT(lost_[0], HasSubstr("start everport-keeper"));
  Listen();
  ASSERT_TRUE(Until([&] { return HasPending(); }));
  Greet();
  EXPECT_TRUE(client.connected());
  EXPECT_EQ(client.trouble(), "");
}

TEST_F(KeeperClientTest, RepliesGoToRequestsInOrderWithTheirDescriptorAndEventsBetween) {
  Listen();
  KeeperClient client(io_, Path(), "a", *this);
  client.Start();
  Greet();
  std::vector<std::string> answers;
  UniqueFd page;
  client.Send(AddRequest{{"vm1", "/s", 1, 1500, "everport-1"}}, [&](absl::StatusOr<KeeperClient::Answer> answer) {
    ASSERT_TRUE(answer.ok());
    answers.push_back(answer->reply.socket);
    page = std::move(answer->fd);
  });
  client.Send(RemoveRequest{"vm2"}, [&](absl::StatusOr<KeeperClient::Answer> answer) {
    answers.push_back(std::string(answer.status().message()));
  });
  Hear();
  Hear();
  ControlReply added = Ok();
  added.socket = "/k/vm1.sock";
  UniqueFd memory(memfd_create("page", MFD_CLOEXEC));
  Say(added, memory.get());
  Say(SessionEvent{"vm1", SessionState::kConnected, "hello"});
  ControlReply refused;
  refused.error = "port vm2: not here";
  Say(refused);
  Say(AnnounceEvent{"vm1", "52:54:00:00:00:01"});
  ASSERT_TRUE(Until([&] { return answers.size() == 2 && announced_.size() == 1; }));
  EXPECT_EQ(answers, (std::vector<std::string>{"/k/vm1.sock", "port vm2: not here"}));
  EXPECT_TRUE(page.valid());
  EXPECT_EQ(sessions_, std::vector<std::string>{"vm1 hello"});
}

TEST_F(KeeperClientTest, AKeeperThatGoesFailsWhatWaitsAndIsConnectedAgain) {
  Listen();
  KeeperClient client(io_, Path(), "a", *this);
  client.Start();
  Greet();
  absl::Status status;
  client.Send(ListRequest{}, [&](absl::StatusOr<KeeperClient::Answer> answer) { status = answer.status(); });
  peer_.reset();
  ASSERT_TRUE(Until([&] { return !status.ok() && lost_.size() == 1; }));
  EXPECT_FALSE(client.connected());
  ASSERT_TRUE(Until([&] { return HasPending(); }));
  Greet();
  EXPECT_EQ(connected_, 2);
}

TEST_F(KeeperClientTest, ASilentKeeperIsGivenUp) {
  Listen();
  KeeperClient client(io_, Path(), "a", *this);
  client.Start();
  Greet();
  absl::Status status;
  client.Send(ListRequest{}, [&](absl::StatusOr<KeeperClient::Answer> answer) { status = answer.status(); });
  ASSERT_TRUE(Until([&] { return !status.ok(); }));
  EXPECT_THAT(std::string(status.message()), HasSubstr("no answer within 2 s"));
}

TEST_F(KeeperClientTest, NonsenseFromTheKeeperEndsTheConnection) {
  Listen();
  KeeperClient client(io_, Path(), "a", *this);
  client.Start();
  Greet();
  ASSERT_GT(send(peer_.get(), "{\"what\":", 8, 0), 0);
  ASSERT_TRUE(Until([&] { return lost_.size() == 1; }));
}

}  // namespace
}  // namespace everport
