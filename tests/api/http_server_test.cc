#include "backend/api/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "backend/base/unique_fd.h"
#include "backend/base/unix_address.h"
#include "tests/api/fake_service.h"
#include "tests/fakes/temp_dir.h"

namespace everport {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// A client that says what it is told to, byte by byte, over a socket that never blocks; the server's io_context is run
// in between, so that a test is one thread and ends as soon as what it waits for is there.
class RawClient {
 public:
  explicit RawClient(const std::string& path) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) {
    const auto address = UnixAddress::Of(path);
    connected_ = address.ok() && ::connect(fd_.get(), address->get(), address->size()) == 0;
  }
  bool connected() const { return connected_; }
  // How much of it the socket took.
  size_t Send(std::string_view text) {
    const ssize_t sent = ::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL);
    return sent < 0 ? 0 : static_cast<size_t>(sent);
  }
  void Poll() {
    char buffer[65536];
    while (true) {
      const ssize_t got = ::recv(fd_.get(), buffer, sizeof buffer, 0);
      if (got > 0) {
        received_.append(buffer, static_cast<size_t>(got));
      } else {
        closed_ = got == 0 || (errno != EAGAIN && errno != EINTR);
        return;
      }
    }
  }
  void Close() { fd_.reset(); }
  const std::string& received() const { return received_; }
  std::string Take() { return std::exchange(received_, {}); }
  bool closed() const { return closed_; }

 private:
  UniqueFd fd_;
  bool connected_ = false, closed_ = false;
  std::string received_;
};

std::string Get(const std::string& target) {
  return absl::StrCat("GET ", target, " HTTP/1.1\r\nHost: everport\r\n\r\n");
}

class HttpServerTest : public testing::Test {
 protected:
  HttpServerTest() { fakes::FillWithExample(service); }

  void Listen(ApiLimits limits = {}) {
    auto listening = ApiServer::Listen(io, service, path, limits);
    ASSERT_TRUE(listening.ok()) << listening.status();
    server = *std::move(listening);
  }
  // Runs the server until it is so; false after 5 s.
  bool Until(const std::function<bool()>& done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (!done()) {
      if (std::chrono::steady_clock::now() > end) return false;
      io.restart();
      io.run_one_for(milliseconds(5));
    }
    return true;
  }
  bool UntilReceived(RawClient& client, const std::string& text) {
    return Until([&] {
      client.Poll();
      return client.received().find(text) != std::string::npos;
    });
  }
  bool UntilClosed(RawClient& client) {
    return Until([&] {
      client.Poll();
      return client.closed();
    });
  }
  // That others are served while one client misbehaves.
  void ExpectServesAnother() {
    RawClient other(path);
    other.Send(Get("/v1/health"));
    EXPECT_TRUE(UntilReceived(other, "\"ready\":true")) << other.received();
  }

  fakes::TempDir dir;
  const std::string path = dir / "api.sock";
  boost::asio::io_context io;
  fakes::FakeService service;
  std::unique_ptr<ApiServer> server;
};

TEST_F(HttpServerTest, AnswersAndKeepsTheConnection) {
  Listen();
  RawClient client(path);
  for (int i = 0; i < 3; ++i) {
    client.Send(Get("/v1/ports/vm2"));
    ASSERT_TRUE(UntilReceived(client, "\"replays\":0}\n")) << client.received();
    EXPECT_THAT(client.Take(), StartsWith("HTTP/1.1 200 OK\r\n"));
  }
  EXPECT_EQ(server->connections(), 1u);
  client.Close();
  EXPECT_TRUE(Until([&] { return server->connections() == 0; }));
}

TEST_F(HttpServerTest, RequestsSentTogetherAreAnsweredInOrder) {
  Listen();
  RawClient client(path);
  client.Send(Get("/v1/ports/vm7") + Get("/v1/health"));
  ASSERT_TRUE(UntilReceived(client, "\"ready\":true"));
  EXPECT_LT(client.received().find("404 Not Found"), client.received().find("200 OK"));
}

TEST_F(HttpServerTest, ConnectionCloseIsKept) {
  Listen();
  RawClient client(path);
  client.Send("GET /v1/health HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(UntilReceived(client, "Connection: close"));
  EXPECT_TRUE(UntilClosed(client));
}

TEST_F(HttpServerTest, BodiesAndAllowAndLocationAreSent) {
  Listen();
  RawClient client(path);
  const std::string body = R"({"name":"vm9","socket":"/s.sock","uplink":[{"kind":"tap","device":"t9"}]})";
  client.Send(absl::StrCat("POST /v1/ports HTTP/1.1\r\nContent-Length: ", body.size(), "\r\n\r\n", body));
  ASSERT_TRUE(UntilReceived(client, "\r\n\r\n")) << client.received();
  EXPECT_THAT(client.received(), HasSubstr("201 Created"));
  EXPECT_THAT(client.Take(), HasSubstr("Location: /v1/ports/vm9\r\n"));
  client.Send("PUT /v1/ports HTTP/1.1\r\n\r\n");
  ASSERT_TRUE(UntilReceived(client, "405 Method Not Allowed"));
  EXPECT_THAT(client.Take(), HasSubstr("Allow: GET, POST\r\n"));
  client.Send("DELETE /v1/ports/vm9 HTTP/1.1\r\n\r\n");
  ASSERT_TRUE(UntilReceived(client, "204 No Content"));
}

TEST_F(HttpServerTest, WhatIsNotHttpIsRefusedAndTheOthersAreServed) {
  Listen();
  for (const std::string& text :
       {std::string("\x16\x03\x01\x02\x00\x01", 6), std::string("GET\r\n\r\n"), std::string("GET / HTTP/9.9\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nno colon\r\n\r\n"), std::string("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"),
        std::string(64, '\0')}) {
    RawClient client(path);
    client.Send(text);
    EXPECT_TRUE(UntilReceived(client, "400 Bad Request")) << text;
    EXPECT_THAT(client.received(), HasSubstr("{\"error\":\"request: not HTTP/1.1: "));
    EXPECT_TRUE(UntilClosed(client));
    ExpectServesAnother();
  }
}

TEST_F(HttpServerTest, OversizedBodyIsRefusedBeforeItIsRead) {
  Listen();
  RawClient client(path);
  client.Send("POST /v1/ports HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n");
  EXPECT_TRUE(UntilReceived(client, "413 Payload Too Large")) << client.received();
  EXPECT_THAT(client.received(), HasSubstr("{\"error\":\"request: body of more than 1048576 bytes"));
  ExpectServesAnother();
}

TEST_F(HttpServerTest, BodyLimitIsTheServersOwn) {
  Listen({.body_bytes = 1000});
  RawClient fits(path), surplus(path);
  fits.Send(absl::StrCat("POST /v1/ports HTTP/1.1\r\nContent-Length: 1000\r\n\r\n", std::string(1000, ' ')));
  EXPECT_TRUE(UntilReceived(fits, "400 Bad Request"));
  surplus.Send("POST /v1/ports HTTP/1.1\r\nContent-Length: 1001\r\n\r\n");
  EXPECT_TRUE(UntilReceived(surplus, "body of more than 1000 bytes"));
}

TEST_F(HttpServerTest, BodyOfOneMebibyteIsRead) {
  Listen();
  RawClient client(path);
  std::string text = absl::StrCat("POST /v1/ports HTTP/1.1\r\nContent-Length: ", 1 << 20, "\r\n\r\n");
  text.append(1 << 20, ' ');
  size_t sent = 0;
  EXPECT_TRUE(Until([&] {
    sent += client.Send(std::string_view(text).substr(sent));
    client.Poll();
    return client.received().find("400 Bad Request") != std::string::npos;  // read, and then no JSON
  }));
  EXPECT_EQ(sent, text.size());
}

TEST_F(HttpServerTest, OversizedChunkedBodyIsRefusedWhileTheClientStillSends) {
  Listen({.body_bytes = 1000});
  RawClient client(path);
  client.Send("POST /v1/ports HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
  const std::string chunk = absl::StrCat("200\r\n", std::string(0x200, 'x'), "\r\n");
  EXPECT_TRUE(Until([&] {
    client.Send(chunk);
    client.Poll();
    return client.received().find("413 Payload Too Large") != std::string::npos;
  }));
  ExpectServesAnother();
}

TEST_F(HttpServerTest, OversizedHeaderIsRefused) {
  Listen();
  RawClient client(path);
  client.Send(absl::StrCat("GET / HTTP/1.1\r\nX: ", std::string(9000, 'x'), "\r\n\r\n"));
  EXPECT_TRUE(UntilReceived(client, "431 Request Header Fields Too Large")) << client.received();
}

TEST_F(HttpServerTest, ClientThatTricklesIsClosedWhenItsTimeIsUp) {
  Listen({.request = milliseconds(100)});
  RawClient client(path);
  client.Send("GET /v1/health HTTP/1.1\r\nX: ");
  ExpectServesAnother();
  auto last = std::chrono::steady_clock::now();
  EXPECT_TRUE(Until([&] {
    if (const auto now = std::chrono::steady_clock::now(); now - last > milliseconds(10)) {
      client.Send("x");  // each byte comes in time; the whole does not
      last = now;
    }
    client.Poll();
    return client.closed();
  }));
  EXPECT_EQ(client.received(), "");
  EXPECT_TRUE(Until([&] { return server->connections() == 0; }));
}

TEST_F(HttpServerTest, HalfABodyAndThenTheEndIsNoRequest) {
  Listen();
  RawClient client(path);
  client.Send("POST /v1/ports HTTP/1.1\r\nContent-Length: 100\r\n\r\n{\"name\"");
  EXPECT_TRUE(Until([&] { return server->connections() == 1; }));
  client.Close();
  EXPECT_TRUE(Until([&] { return server->connections() == 0; }));
  EXPECT_EQ(service.ports.size(), 2u);
  ExpectServesAnother();
}

TEST_F(HttpServerTest, IdleConnectionIsClosed) {
  Listen({.idle = milliseconds(50)});
  RawClient silent(path), after(path);
  after.Send(Get("/v1/health"));
  EXPECT_TRUE(UntilReceived(after, "200 OK"));
  EXPECT_TRUE(UntilClosed(silent));
  EXPECT_TRUE(UntilClosed(after));
}

TEST_F(HttpServerTest, ClientsBeyondTheLimitAreToldSo) {
  Listen({.connections = 2});
  RawClient first(path), second(path), third(path);
  EXPECT_TRUE(UntilReceived(third, "503 Service Unavailable"));
  EXPECT_TRUE(UntilClosed(third));
  EXPECT_EQ(server->connections(), 2u);
  first.Close();
  EXPECT_TRUE(Until([&] { return server->connections() == 1; }));
  ExpectServesAnother();
}

TEST_F(HttpServerTest, AnswerThatTakesTimeHoldsNobodyUp) {
  Listen();
  service.hold = true;
  RawClient client(path);
  client.Send("DELETE /v1/ports/vm2 HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(Until([&] { return service.held.size() == 1; }));
  ExpectServesAnother();
  service.held[0]();
  EXPECT_TRUE(UntilReceived(client, "204 No Content"));
}

TEST_F(HttpServerTest, AnswerAfterTheClientOrTheServerHasGoneDoesNothing) {
  Listen();
  service.hold = true;
  RawClient client(path), other(path);
  client.Send("DELETE /v1/ports/vm1-net0 HTTP/1.1\r\n\r\n");
  other.Send("DELETE /v1/ports/vm2 HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(Until([&] { return service.held.size() == 2; }));
  client.Close();
  service.held[0]();
  EXPECT_TRUE(Until([&] { return server->connections() == 1; }));
  server.reset();
  service.held[1]();
  io.restart();
  io.poll();
  EXPECT_TRUE(service.ports.empty());
}

TEST_F(HttpServerTest, EventsComeAsTheyHappen) {
  Listen();
  RawClient client(path);
  client.Send(Get("/v1/events"));
  EXPECT_TRUE(UntilReceived(client, "1 (tap) running"));
  EXPECT_THAT(client.received(), HasSubstr("Transfer-Encoding: chunked"));
  service.Emit("vm2", "state", "connected");
  EXPECT_TRUE(UntilReceived(client, R"("port":"vm2","type":"state","message":"connected"})"));
  EXPECT_EQ(service.listeners(), 1u);
  client.Close();
  EXPECT_TRUE(Until([&] { return service.listeners() == 0; }));
  EXPECT_EQ(server->connections(), 0u);
}

TEST_F(HttpServerTest, EventsForAnOldClientEndWithTheConnection) {
  Listen();
  RawClient client(path);
  client.Send("GET /v1/events?since=now HTTP/1.0\r\n\r\n");
  EXPECT_TRUE(Until([&] { return service.listeners() == 1; }));
  service.Emit("vm2", "state", "connected");
  EXPECT_TRUE(UntilReceived(client, "\r\n\r\n{\"id\":3,"));
}

TEST_F(HttpServerTest, EventsThatShallNotFollowEnd) {
  Listen();
  RawClient client(path);
  client.Send(Get("/v1/events?follow=no"));
  EXPECT_TRUE(UntilReceived(client, "1 (tap) running\"}\n"));
  EXPECT_EQ(service.listeners(), 0u);
  EXPECT_THAT(client.Take(), HasSubstr("Content-Length: "));
}

TEST_F(HttpServerTest, ReaderThatFallsBehindIsDroppedAndTheOthersAreServed) {
  Listen({.event_queue_bytes = 64 * 1024});
  RawClient slow(path), quick(path);
  slow.Send(Get("/v1/events?since=now"));
  quick.Send(Get("/v1/events?since=now"));
  EXPECT_TRUE(Until([&] { return service.listeners() == 2; }));
  const std::string message(1000, 'x');
  int sent = 0;
  EXPECT_TRUE(Until([&] {
    service.Emit("vm1", "state", absl::StrCat(++sent, message));
    quick.Poll();
    return service.listeners() == 1;
  }));
  EXPECT_TRUE(UntilReceived(quick, absl::StrCat("\"", sent, "xxx")));
  EXPECT_EQ(server->connections(), 1u);
}

TEST_F(HttpServerTest, ReaderThatTakesNothingIsDroppedInTime) {
  Listen({.request = milliseconds(50)});
  RawClient client(path);
  client.Send(Get("/v1/events?since=now"));
  EXPECT_TRUE(Until([&] { return service.listeners() == 1; }));
  for (int i = 0; i < 600; ++i) service.Emit("vm1", "state", std::string(1000, 'x'));
  EXPECT_TRUE(Until([&] { return server->connections() == 0; }));
  EXPECT_EQ(service.listeners(), 0u);
}

TEST_F(HttpServerTest, SocketIsForOwnerAndGroup) {
  const mode_t umask_before = ::umask(0);
  Listen();
  ::umask(umask_before);
  struct stat st {};
  ASSERT_EQ(::stat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0660u);
}

TEST_F(HttpServerTest, SocketGoesWithTheServer) {
  Listen();
  RawClient client(path);
  EXPECT_TRUE(Until([&] { return server->connections() == 1; }));
  server.reset();
  EXPECT_TRUE(UntilClosed(client));
  EXPECT_NE(::access(path.c_str(), F_OK), 0);
}

TEST_F(HttpServerTest, StaleSocketIsReplaced) {
  const UniqueFd stale(::socket(AF_UNIX, SOCK_STREAM, 0));
  const auto address = UnixAddress::Of(path);
  ASSERT_TRUE(address.ok()) << address.status();
  ASSERT_EQ(::bind(stale.get(), address->get(), address->size()), 0);
  Listen();
  ExpectServesAnother();
}

TEST_F(HttpServerTest, LiveSocketIsLeftAlone) {
  Listen();
  const auto second = ApiServer::Listen(io, service, path);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_NE(second.status().message().find(absl::StrCat("(pid ", ::getpid(), ") listens there")),
            absl::string_view::npos)
      << second.status();
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(path));
  ExpectServesAnother();
}

TEST_F(HttpServerTest, FileInTheWayIsLeftAlone) {
  dir.Write("api.sock", "precious");
  EXPECT_EQ(ApiServer::Listen(io, service, path).status().code(), absl::StatusCode::kFailedPrecondition);
  std::string content;
  std::ifstream(path) >> content;
  EXPECT_EQ(content, "precious");
}

TEST_F(HttpServerTest, FolderThatIsNotThereIsNamed) {
  const auto server_or = ApiServer::Listen(io, service, dir / "none/api.sock");
  EXPECT_FALSE(server_or.ok());
  EXPECT_THAT(std::string(server_or.status().message()), HasSubstr("none/api.sock: No such file"));
  EXPECT_EQ(ApiServer::Listen(io, service, "/" + std::string(107, 'x')).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace everport
