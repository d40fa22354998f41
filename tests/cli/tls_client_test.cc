// everportctl's side of the API over TCP: against a real listener, and against servers that are none.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <sstream>
#include <thread>

#include "backend/base/unique_fd.h"
#include "backend/cli/app.h"
#include "backend/cli/http_client.h"
#include "backend/cli/tls_transport.h"
#include "tests/api/tls_daemon.h"

namespace everport::cli {
namespace {

using fakes::TlsDaemon;
using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;

class TlsClientTest : public testing::Test {
 protected:
  // The error of a request to this URL, less what is another each time; one line of object: cause; mend.
  std::string Error(const TlsFiles& files, const std::string& url, milliseconds timeout = std::chrono::seconds(20)) {
    auto client = HttpClient::Open(url, files, timeout);
    if (client.ok()) {
      const auto reply = client->Do("GET", "/v1/health");
      last = reply.status();
    } else {
      last = client.status();
    }
    const std::string text = daemon.Plain(std::string(last.message()));
    EXPECT_FALSE(last.ok());
    EXPECT_THAT(text, AllOf(Not(HasSubstr("\n")), HasSubstr(": "), HasSubstr("; ")));
    return text;
  }
  std::string Error(const TlsFiles& files) { return Error(files, daemon.url()); }
  // With another certificate at the server's end.
  std::string ErrorWithServer(const fakes::IssuedCertificate& issued) {
    daemon.WriteFiles(issued);
    daemon.Configure();
    return Error(daemon.Client());
  }

  TlsDaemon daemon;
  absl::Status last;
};

TEST_F(TlsClientTest, RequestsAndEventsOverTls) {
  daemon.Configure();
  const auto client = HttpClient::Open(daemon.url(), daemon.Client());
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_EQ(client->name(), daemon.url());
  EXPECT_TRUE(client->over_tcp());
  const auto reply = client->Do("GET", "/v1/health");
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->status, 200);
  EXPECT_THAT(reply->body, HasSubstr("\"ready\":true"));
  const auto added =
      client->Do("POST", "/v1/ports", R"({"name":"vm9","socket":"/s.sock","uplink":[{"kind":"tap","device":"t9"}]})");
  ASSERT_TRUE(added.ok()) << added.status();
  EXPECT_EQ(added->status, 201);
  int lines = 0;
  const absl::Status status = client->Lines(
      "/v1/events",
      [&](std::string_view line) {
        if (++lines == 2) daemon.Do([&] { daemon.service().Emit("vm2", "state", "the last"); });
        return line.find("the last") == line.npos;
      },
      [](const HttpReply& refused) { return absl::InternalError(refused.body); });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(lines, 3);
}

TEST_F(TlsClientTest, BigRepliesAndBodies) {
  daemon.Configure();
  daemon.Do([&] {
    PortView port = daemon.service().ports[0];
    for (int i = 0; i < 5000; ++i) {
      port.config.name = absl::StrCat("big", i);
      daemon.service().ports.push_back(port);
    }
  });
  const auto client = HttpClient::Open(daemon.url(), daemon.Client());
  ASSERT_TRUE(client.ok());
  const auto reply = client->Do("GET", "/v1/ports");
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_GT(reply->body.size(), 4u << 20);
  const auto refused = client->Do("POST", "/v1/ports", std::string((1 << 20) + 1, ' '));  // its answer, not a reset
  ASSERT_TRUE(refused.ok()) << refused.status();
  EXPECT_EQ(refused->status, 413);
}

TEST_F(TlsClientTest, NameOfTheServerIsVerified) {
  auto spec = daemon.Spec();
  spec.alt_names = "DNS:hv1.example,IP:10.0.0.1";
  EXPECT_EQ(
      ErrorWithServer(daemon.ca().Issue(spec)),
      "https://HOST: the server's certificate (CN=host-a) is not for IP but for hv1.example, 10.0.0.1; use a name "
      "that it has, or issue it with this one");
  EXPECT_TRUE(absl::IsFailedPrecondition(last));
  spec.name = daemon.config().ip;  // a CN is no name of a server's
  spec.alt_names = "";
  EXPECT_THAT(ErrorWithServer(daemon.ca().Issue(spec)), HasSubstr("is not for IP but for no subjectAltName; "));
}

TEST_F(TlsClientTest, NameFromDnsIsVerifiedAsWell) {
  daemon.config().ip = "127.0.0.1";  // what localhost is
  daemon.config().port = static_cast<uint16_t>(20000 + ::getpid() % 10000);
  daemon.config().address = absl::StrCat("127.0.0.1:", daemon.config().port);
  auto spec = daemon.Spec();
  spec.alt_names = "DNS:localhost";
  daemon.WriteFiles(daemon.ca().Issue(spec));
  daemon.Configure();
  const std::string url = absl::StrCat("https://localhost:", daemon.config().port);
  const auto client = HttpClient::Open(url, daemon.Client());
  ASSERT_TRUE(client.ok());
  EXPECT_TRUE(client->Do("GET", "/v1/health").ok()) << client->Do("GET", "/v1/health").status();
  spec.alt_names = "DNS:other";
  daemon.WriteFiles(daemon.ca().Issue(spec));
  daemon.Configure();
  EXPECT_THAT(Error(daemon.Client(), url), HasSubstr("is not for localhost but for other; "));
}

TEST_F(TlsClientTest, ServerOfAnotherCa) {
  daemon.Configure();
  const TlsFiles files = daemon.Client(daemon.ca().Issue(), fakes::FakeCa("other CA").pem());
  EXPECT_THAT(Error(files),
              MatchesRegex("https://HOST: certificate of the server \\(CN=host-a\\) is of a CA \\(CN=everport "
                           "test CA\\) that is not in --ca client1.ca; add that CA there.*"));
  EXPECT_TRUE(absl::IsFailedPrecondition(last));
  EXPECT_TRUE(daemon.UntilRefused("refused_by_peer"));
}

TEST_F(TlsClientTest, SelfSignedServer) {
  EXPECT_THAT(
      ErrorWithServer(fakes::FakeCa::SelfSigned(daemon.Spec())),
      MatchesRegex("https://HOST: certificate of the server \\(CN=host-a\\) is self-signed; issue one with the CA of "
                   "--ca client1.ca"));
}

// The daemon itself takes no such certificate, but the clocks of two hosts differ: its certificate ends while it runs.
TEST_F(TlsClientTest, ServerThatExpiredInOperation) {
  auto spec = daemon.Spec();
  spec.ends = 4;
  daemon.WriteFiles(daemon.ca().Issue(spec));
  daemon.Configure();
  const TlsFiles files = daemon.Client();
  const int64_t ends = daemon.View()->certificate_not_after;
  EXPECT_TRUE(daemon.Until([&] { return std::time(nullptr) > ends; }));
  EXPECT_THAT(Error(files),
              MatchesRegex("https://HOST: certificate of the server \\(CN=host-a\\) expired on 20..-..-.. ..:.. "
                           "UTC; renew it"));
  EXPECT_THAT(daemon.View()->problems, testing::Contains(HasSubstr("the certificate in force expired on ")));
}

TEST_F(TlsClientTest, RefusalsOfOurCertificateAreNamed) {
  daemon.Configure();
  EXPECT_THAT(Error(daemon.Client(daemon.ca().Issue({.name = "me", .begins = -86400, .ends = -60}))),
              MatchesRegex("https://HOST: the server refuses the certificate client1.crt \\(CN=me\\): it expired on "
                           "20..-..-.. ..:.. UTC; renew it"));
  EXPECT_TRUE(absl::IsPermissionDenied(last));
  EXPECT_THAT(
      Error(daemon.Client(daemon.ca().Issue({.name = "me", .begins = 3600}))),
      MatchesRegex("https://HOST: the server refuses the certificate client2.crt \\(CN=me\\): it is not valid before "
                   ".* UTC; check both hosts' clocks, or wait"));
  EXPECT_EQ(Error(daemon.Client(fakes::FakeCa("other CA").Issue({.name = "me"}))),
            "https://HOST: the server refuses the certificate client3.crt (CN=me): its CA (CN=other CA) is not in the "
            "server's [daemon.listen] ca; use a certificate of that CA");
  EXPECT_THAT(Error(daemon.Client(fakes::FakeCa::SelfSigned({.name = "me"}))), HasSubstr("its CA (CN=me) is not in"));
  EXPECT_THAT(Error(daemon.Client(fakes::FakeCa().Issue({.name = "me"}))),
              HasSubstr("is another than the one of that name"));
  EXPECT_TRUE(absl::IsPermissionDenied(last));
}

TEST_F(TlsClientTest, EventsAreRefusedInTheSameWords) {
  daemon.Configure();
  const auto client =
      HttpClient::Open(daemon.url(), daemon.Client(daemon.ca().Issue({.name = "me", .begins = -86400, .ends = -60})));
  const absl::Status status = client->Lines(
      "/v1/events", [](std::string_view) { return true; },
      [](const HttpReply&) { return absl::InternalError("a reply"); });
  EXPECT_THAT(std::string(status.message()), HasSubstr("it expired on "));
}

TEST_F(TlsClientTest, FilesAreLookedAtFirst) {
  TlsFiles files = daemon.Client();
  files.key = daemon.dir() / "none.key";
  EXPECT_EQ(Error(files),
            "--key: none.key: cannot be read (No such file or directory); make it, or give --key the right path");
  files = daemon.Client();
  files.key = daemon.Client().key;
  EXPECT_THAT(Error(files), StartsWith("--key: client3.key: is not the key of client2.crt; "));
  EXPECT_THAT(Error(daemon.Client(daemon.ca().Issue({.usage = "serverAuth"}))),
              HasSubstr("is not one for clients; issue"));
}

TEST_F(TlsClientTest, NobodyListens) {
  EXPECT_EQ(Error(daemon.Client()),
            "https://HOST: cannot connect: Connection refused; does everportd run there, with [daemon.listen]?");
  EXPECT_TRUE(absl::IsUnavailable(last));
}

TEST_F(TlsClientTest, NameThatDoesNotResolve) {
  EXPECT_THAT(
      Error(daemon.Client(), "https://no-such-host.invalid:9440"),
      MatchesRegex("https://no-such-host.invalid:9440: the name no-such-host.invalid does not resolve \\(.*\\); "
                   "correct it, or give the address"));
}

// A server that says this to whoever connects, and then nothing more until the client goes.
class Speaker {
 public:
  Speaker(const ListenConfig& where, std::string words, bool stay)
      : acceptor_(io_, {boost::asio::ip::make_address(where.ip), where.port}), words_(std::move(words)), stay_(stay) {
    thread_ = std::thread([this] {
      auto client = acceptor_.accept();
      boost::asio::write(client, boost::asio::buffer(words_));
      char buffer[4096];
      boost::system::error_code error;
      client.read_some(boost::asio::buffer(buffer), error);
      while (stay_ && !error) client.read_some(boost::asio::buffer(buffer), error);
    });
  }
  ~Speaker() { thread_.join(); }

 private:
  boost::asio::io_context io_;
  boost::asio::ip::tcp::acceptor acceptor_;
  const std::string words_;
  const bool stay_;
  std::thread thread_;
};

TEST_F(TlsClientTest, ServerThatSpeaksNoTls) {
  Speaker ssh(daemon.config(), "SSH-2.0-OpenSSH_9.2\r\n", true);
  EXPECT_EQ(Error(daemon.Client()),
            "https://HOST: the server does not speak TLS; is it everportd's [daemon.listen] address?");
}

TEST_F(TlsClientTest, ServerThatSaysNothing) {
  Speaker silent(daemon.config(), "", true);
  EXPECT_EQ(Error(daemon.Client(), daemon.url(), milliseconds(100)),
            "https://HOST: the server does not answer in the TLS handshake; is it everportd's address, and does "
            "everportd run "
            "well?");
  EXPECT_TRUE(absl::IsDeadlineExceeded(last));
}

TEST_F(TlsClientTest, ServerThatHangsUp) {
  Speaker rude(daemon.config(), "", false);
  EXPECT_THAT(Error(daemon.Client()),
              StartsWith("https://HOST: the server closed the connection without a word; is it "));
}

TEST_F(TlsClientTest, AnswerThatDoesNotComeInTime) {
  daemon.Configure();
  daemon.Do([&] { daemon.service().hold = true; });
  const auto client = HttpClient::Open(daemon.url(), daemon.Client(), milliseconds(1000));
  const auto reply = client->Do("DELETE", "/v1/ports/vm2");
  EXPECT_EQ(daemon.Plain(std::string(reply.status().message())),
            "https://HOST: no answer within 1 s; see the log of everportd there");
  EXPECT_TRUE(absl::IsDeadlineExceeded(reply.status()));
}

// A socket that listens and whose backlog is full: the kernel drops what else wants to connect, as a firewall does.
class FullBacklog {
 public:
  explicit FullBacklog(const ListenConfig& where) : acceptor_(io_) {
    const boost::asio::ip::tcp::endpoint endpoint(boost::asio::ip::make_address(where.ip), where.port);
    acceptor_.open(endpoint.protocol());
    acceptor_.set_option(boost::asio::socket_base::reuse_address(true));
    acceptor_.bind(endpoint);
    acceptor_.listen(0);
    for (int i = 0; i < 8; ++i) {
      waiting_.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
      (void)::connect(waiting_.back().get(), endpoint.data(), static_cast<socklen_t>(endpoint.size()));
    }
  }

 private:
  boost::asio::io_context io_;
  boost::asio::ip::tcp::acceptor acceptor_;
  std::vector<UniqueFd> waiting_;
};

TEST_F(TlsClientTest, HostThatDoesNotAnswerTheConnection) {
  const FullBacklog full(daemon.config());
  EXPECT_THAT(
      Error(daemon.Client(), daemon.url(), milliseconds(300)),
      StartsWith("https://HOST: cannot connect within 0.3 s; does the host run, and does a firewall let port 9440 "));
  EXPECT_TRUE(absl::IsDeadlineExceeded(last));
}

TEST(HttpsTargetTest, IsHostAndPort) {
  const auto target = ParseHttpsTarget("https://hv2.example:9440/");
  ASSERT_TRUE(target.ok());
  EXPECT_EQ(target->url, "https://hv2.example:9440");
  EXPECT_EQ(target->host, "hv2.example");
  EXPECT_EQ(target->port, 9440);
  const auto v6 = ParseHttpsTarget("https://[fd00::1]:9440");
  ASSERT_TRUE(v6.ok());
  EXPECT_EQ(v6->host, "fd00::1");
  for (const char* bad :
       {"https://", "https://hv2", "https://hv2:", "https://hv2:0", "https://hv2:65536", "https://:9440",
        "https://fd00::1:9440", "https://[fd00::1]", "https://[hv2]:9440", "https://[fd00::1:9440",
        "https://hv2:9440/v1", "https://me@hv2:9440", "https://hv2 :9440", "https://hv2:9440\r\n"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseHttpsTarget(bad).status())) << bad;
  }
}

TEST(HttpClientTargetTest, WhatIsNoWayToADaemonIsRefusedWithTheMend) {
  const auto refusal = [](const char* target) { return std::string(HttpClient::Open(target, {}).status().message()); };
  EXPECT_EQ(
      refusal("http://hv2:9440"),
      "http://hv2:9440: the API over TCP is spoken with TLS alone; write https://, and give --cert, --key and --ca");
  EXPECT_THAT(refusal("ssh://hv2"), HasSubstr("no way to a daemon's API; give the path of its api.sock, or https://"));
  EXPECT_THAT(refusal(""), HasSubstr("no way to a daemon's API"));
  EXPECT_EQ(HttpClient::Open("unix:/run/x.sock", {})->name(), "/run/x.sock");
  EXPECT_FALSE(HttpClient::Open("/run/x.sock", {})->over_tcp());
}

class TlsCliTest : public TlsClientTest {
 protected:
  struct Result {
    int status = -1;
    std::string out, err;
  };
  Result Run(std::vector<std::string> args) {
    std::vector<const char*> argv = {"everportctl"};
    for (const std::string& arg : args) argv.push_back(arg.c_str());
    std::istringstream in;
    std::ostringstream out, err;
    CliIo io{in, out, err};
    const int status = RunCli(static_cast<int>(argv.size()), argv.data(), "/nowhere", io);
    return {status, out.str(), daemon.Plain(err.str())};
  }
};

TEST_F(TlsCliTest, OptionsAndEnvironmentNameTheFiles) {
  daemon.Configure();
  const TlsFiles files = daemon.Client();
  const Result shown =
      Run({"--api", daemon.url(), "--cert", files.certificate, "--key", files.key, "--ca", files.ca, "ports"});
  EXPECT_EQ(shown.status, 0) << shown.err;
  EXPECT_THAT(shown.out, HasSubstr("vm1-net0  running"));
  ::setenv("EVERPORT_CERT", files.certificate.c_str(), 1);
  ::setenv("EVERPORT_KEY", files.key.c_str(), 1);
  ::setenv("EVERPORT_CA", files.ca.c_str(), 1);
  const Result again = Run({"--api", daemon.url(), "events", "--no-follow"});
  for (const char* name : {"EVERPORT_CERT", "EVERPORT_KEY", "EVERPORT_CA"}) ::unsetenv(name);
  EXPECT_EQ(again.status, 0) << again.err;
  EXPECT_THAT(again.out, HasSubstr("0 (vf) failed"));
}

TEST_F(TlsCliTest, ClientThatIsNotAllowedReadsTheDaemonsOwnWords) {
  daemon.config().allow = {"host-z"};
  daemon.Configure();
  const TlsFiles files = daemon.Client();
  const Result result =
      Run({"--api", daemon.url(), "--cert", files.certificate, "--key", files.key, "--ca", files.ca, "ports"});
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(
      result.err,
      "everportctl: api: the certificate (CN=host-b) is not in [daemon.listen] allow of this daemon; add its name "
      "there and reload it\n");
}

TEST_F(TlsCliTest, FaultsAreOneLineAndExitStatus) {
  const Result plain = Run({"--api", "http://hv2:9440", "ports"});
  EXPECT_EQ(plain.status, 2);
  EXPECT_THAT(plain.err, StartsWith("everportctl: http://hv2:9440: the API over TCP is spoken with TLS alone; "));
  const Result missing = Run({"--api", "https://hv2:9440", "--cert", daemon.dir() / "no.crt", "ports"});
  EXPECT_EQ(missing.status, 1);
  EXPECT_EQ(missing.err,
            "everportctl: --cert: no.crt: cannot be read (No such file or directory); make it, or give --cert the "
            "right path\n");
}

TEST_F(TlsCliTest, DoctorIsForTheHostItself) {
  daemon.Configure();
  const TlsFiles files = daemon.Client();
  const Result result =
      Run({"--api", daemon.url(), "--cert", files.certificate, "--key", files.key, "--ca", files.ca, "doctor"});
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(result.err,
            "everportctl: doctor: looks at the files of its own host, and https://HOST may be another; run it there\n");
}

}  // namespace
}  // namespace everport::cli
