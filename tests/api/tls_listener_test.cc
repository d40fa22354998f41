#include "backend/api/tls_listener.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <thread>

#include "backend/api/metrics.h"
#include "backend/base/refusal_log.h"
#include "tests/api/raw_tls_client.h"
#include "tests/api/tls_daemon.h"

namespace everport {
namespace {

using fakes::RawTlsClient;
using fakes::TlsDaemon;
using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr const char* kHealth = "GET /v1/health HTTP/1.1\r\nHost: everport\r\n\r\n";
constexpr const char* kReady = "\"ready\":true";

// That a client is served, whatever others do.
void ExpectServes(TlsDaemon& daemon) {
  const TlsFiles files = daemon.Client();
  RawTlsClient client(daemon.config());
  ASSERT_TRUE(client.Handshake(&files));
  client.Send(kHealth);
  EXPECT_THAT(client.ReadUntil(kReady), HasSubstr(kReady));
}

TEST(TlsListenerTest, ServesAndKeepsTheConnection) {
  TlsDaemon daemon;
  daemon.Configure();
  EXPECT_THAT(daemon.TakeTold(), ElementsAre("the API listens on " + daemon.config().address + " (TLS, CN=host-a)"));
  const TlsFiles files = daemon.Client();
  RawTlsClient client(daemon.config());
  ASSERT_TRUE(client.Handshake(&files));
  for (int i = 0; i < 3; ++i) {
    client.Send("GET /v1/ports/vm7 HTTP/1.1\r\n\r\n");
    EXPECT_THAT(client.ReadUntil("}\n"), StartsWith("HTTP/1.1 404 Not Found\r\n"));
  }
  const auto view = daemon.View();
  EXPECT_EQ(view->address, daemon.config().address);
  EXPECT_EQ(view->connections, 1u);
  EXPECT_EQ(view->accepted, 1u);
  EXPECT_THAT(view->problems, ElementsAre(HasSubstr("the certificate in force expires on ")));  // within 30 days
  EXPECT_NEAR(static_cast<double>(view->certificate_not_after), static_cast<double>(std::time(nullptr) + 86400), 60);
}

TEST(TlsListenerTest, CertificateThatLastsIsNoProblem) {
  TlsDaemon daemon;
  auto spec = daemon.Spec();
  spec.ends = 31 * 86400;
  daemon.WriteFiles(daemon.ca().Issue(spec));
  daemon.Configure();
  EXPECT_THAT(daemon.View()->problems, IsEmpty());
}

TEST(TlsListenerTest, ConnectionCloseEndsWithTlsGoodbye) {
  TlsDaemon daemon;
  daemon.Configure();
  const TlsFiles files = daemon.Client();
  RawTlsClient client(daemon.config());
  ASSERT_TRUE(client.Handshake(&files));
  client.Send("GET /v1/health HTTP/1.0\r\n\r\n");
  EXPECT_THAT(client.ReadUntil("never there"), HasSubstr(kReady));
}

// Refused by its certificate: under TLS 1.3 the handshake is over for the client, and its first read tells.
// alert_12: of TLS 1.2, where it is another.
void ExpectRefused(TlsDaemon& daemon, const TlsFiles* files, const std::string& cause, int alert, int alert_12 = -1) {
  for (const int version : {TLS1_3_VERSION, TLS1_2_VERSION}) {
    RawTlsClient client(daemon.config());
    SSL_CTX_set_max_proto_version(client.context(), version);
    const uint64_t before = daemon.Refused(cause);
    ERR_clear_error();
    if (client.Handshake(files)) {
      EXPECT_EQ(version, TLS1_3_VERSION);
      client.Send(kHealth);
      EXPECT_EQ(client.ReadUntil(kReady), "");
    }
    const int expected = version == TLS1_2_VERSION && alert_12 >= 0 ? alert_12 : alert;
    EXPECT_EQ(ERR_GET_REASON(ERR_peek_error()), SSL_AD_REASON_OFFSET + expected)
        << ERR_reason_error_string(ERR_peek_error());
    EXPECT_TRUE(daemon.UntilRefused(cause, before + 1)) << cause;
  }
}

TEST(TlsListenerTest, BadClientCertificatesAreRefusedByCause) {
  TlsDaemon daemon;
  daemon.Configure();
  const auto client = [&](const fakes::IssuedCertificate& issued) { return daemon.Client(issued); };
  ExpectRefused(daemon, nullptr, "no_certificate", SSL_AD_CERTIFICATE_REQUIRED, SSL_AD_HANDSHAKE_FAILURE);
  const TlsFiles expired = client(daemon.ca().Issue({.begins = -86400, .ends = -60}));
  ExpectRefused(daemon, &expired, "expired", SSL_AD_CERTIFICATE_EXPIRED);
  const TlsFiles early = client(daemon.ca().Issue({.begins = 3600}));
  ExpectRefused(daemon, &early, "not_yet_valid", SSL_AD_BAD_CERTIFICATE);
  const TlsFiles foreign = client(fakes::FakeCa("other CA").Issue());
  ExpectRefused(daemon, &foreign, "unknown_ca", SSL_AD_UNKNOWN_CA);
  const TlsFiles namesake = client(fakes::FakeCa().Issue());
  ExpectRefused(daemon, &namesake, "unknown_ca", SSL_AD_DECRYPT_ERROR);
  const TlsFiles lone = client(fakes::FakeCa::SelfSigned());
  ExpectRefused(daemon, &lone, "unknown_ca", SSL_AD_UNKNOWN_CA);
  const TlsFiles servers = client(daemon.ca().Issue({.usage = "serverAuth"}));
  ExpectRefused(daemon, &servers, "bad_certificate", SSL_AD_UNSUPPORTED_CERTIFICATE);
  EXPECT_EQ(daemon.View()->accepted, 0u);
  ExpectServes(daemon);
}

TEST(TlsListenerTest, ClientThatIsNotAllowedIsToldSo) {
  TlsDaemon daemon;
  daemon.config().allow = {"host-b", "10.9.9.9"};
  daemon.Configure();
  const TlsFiles files = daemon.Client(daemon.ca().Issue({.name = "host-c", .alt_names = "DNS:host-b.example"}));
  RawTlsClient client(daemon.config());
  ASSERT_TRUE(client.Handshake(&files));
  client.Send(kHealth);
  const std::string answer = client.ReadUntil("never there");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 403 Forbidden\r\n"));
  EXPECT_THAT(answer, HasSubstr("the certificate (CN=host-c) is not in [daemon.listen] allow of this daemon; add"));
  EXPECT_EQ(daemon.Refused("not_allowed"), 1u);
  ExpectServes(daemon);  // by its CN
  const TlsFiles by_san = daemon.Client(daemon.ca().Issue({.name = "x", .alt_names = "IP:10.9.9.9"}));
  RawTlsClient other(daemon.config());
  ASSERT_TRUE(other.Handshake(&by_san));
  other.Send(kHealth);
  EXPECT_THAT(other.ReadUntil(kReady), HasSubstr(kReady));
}

TEST(TlsListenerTest, WhatIsNoTlsIsRefusedAndPlainHttpIsToldSo) {
  TlsDaemon daemon;
  daemon.Configure();
  RawTlsClient plain(daemon.config());
  plain.SendPlain(kHealth);
  const std::string answer = plain.ReadPlain();
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 400 Bad Request\r\n"));
  EXPECT_THAT(answer, HasSubstr("this port speaks HTTPS with client certificates alone; use https://"));
  EXPECT_TRUE(plain.ended_well());
  EXPECT_TRUE(daemon.UntilRefused("plain_http"));
  RawTlsClient garbage(daemon.config());
  garbage.SendPlain("SSH-2.0-OpenSSH_9.2\r\n" + std::string(3000, 'x'));
  EXPECT_EQ(garbage.ReadPlain().find("HTTP"), std::string::npos);
  EXPECT_TRUE(garbage.ended_well());
  EXPECT_TRUE(daemon.UntilRefused("no_tls"));
  RawTlsClient broken(daemon.config());  // a record of TLS with nonsense in it
  broken.SendPlain(std::string("\x16\x03\x01\x00\x05\x63\x00\x00\x01\x00", 10));
  broken.ReadPlain();
  EXPECT_TRUE(daemon.UntilRefused("protocol"));
  { RawTlsClient gone(daemon.config()); }
  EXPECT_TRUE(daemon.UntilRefused("closed"));
  ExpectServes(daemon);
}

TEST(TlsListenerTest, OldVersionsAreRefused) {
  TlsDaemon daemon;
  daemon.Configure();
  RawTlsClient client(daemon.config());
  SSL_CTX_set_security_level(client.context(), 0);
  SSL_CTX_set_min_proto_version(client.context(), TLS1_VERSION);
  SSL_CTX_set_max_proto_version(client.context(), TLS1_1_VERSION);
  const TlsFiles files = daemon.Client();
  EXPECT_FALSE(client.Handshake(&files));
  EXPECT_TRUE(daemon.UntilRefused("protocol"));
}

TEST(TlsListenerTest, ClientThatRefusesTheDaemonIsCounted) {
  TlsDaemon daemon;
  daemon.Configure();
  RawTlsClient client(daemon.config());
  SSL_CTX_set_verify(client.context(), SSL_VERIFY_PEER, nullptr);  // and has no CA at all
  const TlsFiles files = daemon.Client();
  EXPECT_FALSE(client.Handshake(&files));
  EXPECT_TRUE(daemon.UntilRefused("refused_by_peer"));
}

TEST(TlsListenerTest, HalfOpenHandshakesEndInTimeAndHoldNobodyUp) {
  TlsDaemon daemon({.handshake = milliseconds(2000)});
  daemon.Configure();
  RawTlsClient silent(daemon.config()), half(daemon.config());
  half.SendPlain(std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11));
  ExpectServes(daemon);
  EXPECT_EQ(silent.ReadPlain(), "");
  EXPECT_EQ(half.ReadPlain(), "");
  EXPECT_TRUE(daemon.UntilRefused("timeout", 2));
}

TEST(TlsListenerTest, FloodOfHandshakesCostsTheOldestOfThem) {
  TlsDaemon daemon({.handshakes = 4});
  daemon.Configure();
  std::vector<std::unique_ptr<RawTlsClient>> silent;
  for (int i = 0; i < 12; ++i) silent.push_back(std::make_unique<RawTlsClient>(daemon.config()));
  ExpectServes(daemon);
  EXPECT_EQ(daemon.Refused("crowded"), 9u);
  EXPECT_EQ(silent.front()->ReadPlain(), "");
}

TEST(TlsListenerTest, RequestThatTricklesEndsInTime) {
  TlsDaemon daemon({.request = milliseconds(1500)});
  daemon.Configure();
  const TlsFiles files = daemon.Client();
  RawTlsClient client(daemon.config());
  ASSERT_TRUE(client.Handshake(&files));
  const auto begin = std::chrono::steady_clock::now();
  const std::string request(100000, 'x');
  client.Send("GET /");
  for (size_t i = 0; i < request.size() && client.Send(request.substr(i, 1)); ++i) {
    if (std::chrono::steady_clock::now() - begin > std::chrono::seconds(20)) break;
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
  EXPECT_TRUE(daemon.Until([&] { return daemon.View()->connections == 0; }));
  ExpectServes(daemon);
}

TEST(TlsListenerTest, IdleConnectionEnds) {
  TlsDaemon daemon({.idle = milliseconds(100)});
  daemon.Configure();
  const TlsFiles files = daemon.Client();
  RawTlsClient client(daemon.config());
  ASSERT_TRUE(client.Handshake(&files));
  EXPECT_TRUE(client.Ended());
}

TEST(TlsListenerTest, ClientsBeyondTheLimitAreToldSo) {
  TlsDaemon daemon({.connections = 2});
  daemon.Configure();
  const TlsFiles files = daemon.Client();
  RawTlsClient first(daemon.config()), second(daemon.config()), third(daemon.config());
  ASSERT_TRUE(first.Handshake(&files));
  ASSERT_TRUE(second.Handshake(&files));
  ASSERT_TRUE(daemon.Until([&] { return daemon.View()->connections == 2; }));
  ASSERT_TRUE(third.Handshake(&files));
  third.Send(kHealth);
  EXPECT_THAT(third.ReadUntil("never there"), HasSubstr("503 Service Unavailable"));
  EXPECT_EQ(daemon.Refused("too_many"), 1u);
  first.Send(kHealth);
  EXPECT_THAT(first.ReadUntil(kReady), HasSubstr(kReady));
}

TEST(TlsListenerTest, HundredClientsAtATime) {
  TlsDaemon daemon({.connections = 100});
  daemon.Configure();
  const TlsFiles files = daemon.Client();
  std::vector<std::unique_ptr<RawTlsClient>> clients;
  for (int i = 0; i < 100; ++i) clients.push_back(std::make_unique<RawTlsClient>(daemon.config()));
  std::vector<std::thread> threads;
  std::atomic<int> served = 0;
  for (int t = 0; t < 10; ++t) {
    threads.emplace_back([&, t] {
      for (int i = t; i < 100; i += 10) {
        if (!clients[static_cast<size_t>(i)]->Handshake(&files)) continue;
        clients[static_cast<size_t>(i)]->Send(kHealth);
        served += clients[static_cast<size_t>(i)]->ReadUntil(kReady).find(kReady) != std::string::npos;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(served, 100);
  EXPECT_EQ(daemon.View()->connections, 100u);
  clients.clear();
  EXPECT_TRUE(daemon.Until([&] { return daemon.View()->connections == 0; }));
}

TEST(TlsListenerTest, EventsComeAsTheyHappen) {
  TlsDaemon daemon;
  daemon.Configure();
  const TlsFiles files = daemon.Client();
  RawTlsClient client(daemon.config());
  ASSERT_TRUE(client.Handshake(&files));
  client.Send("GET /v1/events HTTP/1.1\r\n\r\n");
  ASSERT_THAT(client.ReadUntil("0 (vf) failed"), HasSubstr("0 (vf) failed"));
  for (int i = 0; i < 50; ++i) {
    const std::string message = absl::StrCat("event ", i, ".");
    daemon.Do([&] { daemon.service().Emit("vm2", "state", message); });
    ASSERT_THAT(client.ReadUntil(message), HasSubstr(message));
  }
}

TEST(TlsListenerTest, ReaderOfEventsThatTakesNothingIsDropped) {
  TlsDaemon daemon({.event_queue_bytes = 64 * 1024});
  daemon.Configure();
  const TlsFiles files = daemon.Client();
  RawTlsClient client(daemon.config());
  ASSERT_TRUE(client.Handshake(&files));
  client.Send("GET /v1/events HTTP/1.1\r\n\r\n");
  ASSERT_THAT(client.ReadUntil("0 (vf) failed"), HasSubstr("0 (vf) failed"));
  const std::string big(16 * 1024, 'x');
  EXPECT_TRUE(daemon.Until([&] {
    daemon.Do([&] { daemon.service().Emit("", "state", big); });
    return daemon.View()->connections == 0;
  }));
  ExpectServes(daemon);
}

TEST(TlsListenerTest, BigReplyComesWhole) {
  TlsDaemon daemon;
  daemon.Configure();
  daemon.Do([&] {
    PortView port = daemon.service().ports[0];
    for (int i = 0; i < 5000; ++i) {
      port.config.name = absl::StrCat("big", i);
      daemon.service().ports.push_back(port);
    }
  });
  const TlsFiles files = daemon.Client();
  RawTlsClient client(daemon.config());
  ASSERT_TRUE(client.Handshake(&files));
  client.Send("GET /v1/ports HTTP/1.1\r\nConnection: close\r\n\r\n");
  const std::string reply = client.ReadUntil("never there");
  EXPECT_GT(reply.size(), 4u << 20);
  EXPECT_THAT(reply.substr(reply.size() - 3), "}]\n");
}

TEST(TlsListenerTest, OversizedBodyIsRefusedWithAnAnswerThatArrives) {
  TlsDaemon daemon({.body_bytes = 1000});
  daemon.Configure();
  const TlsFiles files = daemon.Client();
  RawTlsClient client(daemon.config());
  ASSERT_TRUE(client.Handshake(&files));
  client.Send("POST /v1/ports HTTP/1.1\r\nContent-Length: 300000\r\n\r\n");
  client.Send(std::string(300000, ' '));
  EXPECT_THAT(client.ReadUntil("bytes; send"), HasSubstr("413 Payload Too Large"));
}

TEST(TlsListenerTest, NewCertificateIsTakenUnderOpenConnections) {
  TlsDaemon daemon;
  daemon.Configure();
  const TlsFiles files = daemon.Client();
  RawTlsClient old(daemon.config());
  ASSERT_TRUE(old.Handshake(&files));
  auto spec = daemon.Spec();
  spec.ends = 40 * 86400;
  daemon.WriteFiles(daemon.ca().Issue(spec));
  (void)daemon.TakeTold();
  daemon.Configure();
  EXPECT_THAT(daemon.TakeTold(),
              ElementsAre(StartsWith("the API over TCP has a new certificate (CN=host-a), valid until ")));
  EXPECT_THAT(daemon.View()->problems, IsEmpty());
  RawTlsClient fresh(daemon.config());
  ASSERT_TRUE(fresh.Handshake(&files));
  EXPECT_NEAR(static_cast<double>(fresh.ServerNotAfter() - old.ServerNotAfter()), 39 * 86400, 60);
  old.Send(kHealth);
  EXPECT_THAT(old.ReadUntil(kReady), HasSubstr(kReady));
}

TEST(TlsListenerTest, BadNewFilesAreRefusedUntilTheyAreGood) {
  TlsDaemon daemon({.retry = milliseconds(1)});
  daemon.Configure();
  const auto good = daemon.ca().Issue(daemon.Spec());
  auto expired = daemon.Spec();
  expired.begins = -7200;
  expired.ends = -3600;
  struct Bad {
    fakes::IssuedCertificate files;
    const char* problem;
  };
  const Bad bad[] = {
      {daemon.ca().Issue(expired), "(CN=host-a) expired on "},
      {{good.certificate, daemon.ca().Issue().key}, "daemon.listen.key: host.key: is not the key of host.crt"},
      {{"garbage", good.key}, "daemon.listen.certificate: host.crt: holds no PEM certificate"}};
  for (const Bad& one : bad) {
    (void)daemon.TakeTold();
    daemon.WriteFiles(one.files);
    daemon.Configure();
    const auto told = daemon.TakeTold();
    ASSERT_FALSE(told.empty());  // files half written may have been seen before
    EXPECT_THAT(daemon.Plain(told.back()), HasSubstr(one.problem));
    EXPECT_THAT(told.back(), HasSubstr("; until then the API over TCP goes on with what it had before"));
    EXPECT_THAT(daemon.View()->problems, testing::Contains(told.back()));
    for (int i = 0; i < 5; ++i) ExpectServes(daemon);  // while it is tried again
    EXPECT_THAT(daemon.TakeTold(), IsEmpty());         // said once
  }
  daemon.WriteFiles(good);                                                         // without a reload
  EXPECT_TRUE(daemon.Until([&] { return daemon.View()->problems.size() == 1; }));  // that it expires tomorrow
  ExpectServes(daemon);
}

TEST(TlsListenerTest, BadFilesAtStartLeaveTheDaemonWithoutItUntilTheyAreGood) {
  TlsDaemon daemon({.retry = milliseconds(20)});
  const std::string ca = daemon.config().ca;
  ::unlink(ca.c_str());
  daemon.Configure();
  EXPECT_EQ(daemon.View()->address, "");
  EXPECT_THAT(
      daemon.View()->problems,
      ElementsAre(HasSubstr("ca.crt: cannot be read (No such file or directory); make it, or give daemon.listen.ca "
                            "the right path; until then the API is not reached over TCP")));
  EXPECT_FALSE(RawTlsClient(daemon.config()).connected());
  daemon.dir().Write("ca.crt", daemon.ca().pem());
  EXPECT_TRUE(daemon.Until([&] { return !daemon.View()->address.empty(); }));
  ExpectServes(daemon);
}

TEST(TlsListenerTest, AddressThatIsTakenIsTriedAgain) {
  TlsDaemon daemon({.retry = milliseconds(20)}), other;
  other.Configure();
  daemon.Configure();
  EXPECT_THAT(daemon.View()->problems,
              testing::Contains(HasSubstr("Address already in use; another program listens there: `ss -ltnp` tells")));
  EXPECT_EQ(daemon.View()->address, "");
  other.Stop();
  EXPECT_TRUE(daemon.Until([&] { return !daemon.View()->address.empty(); }));
  ExpectServes(daemon);
}

TEST(TlsListenerTest, NewAddressTakesTheOldOnesPlaceIfItCanBeHad) {
  TlsDaemon daemon;
  daemon.Configure();
  const TlsFiles files = daemon.Client();
  RawTlsClient old(daemon.config());
  ASSERT_TRUE(old.Handshake(&files));
  const ListenConfig before = daemon.config();
  daemon.config().ip = "192.0.2.1";  // nobody's
  daemon.config().address = "192.0.2.1:9440";
  daemon.Configure();
  EXPECT_THAT(daemon.View()->problems,
              testing::Contains(HasSubstr("daemon.listen.address: 192.0.2.1:9440: Cannot assign")));
  EXPECT_EQ(daemon.View()->address, before.address);
  EXPECT_TRUE(RawTlsClient(before).connected());
  daemon.config() = before;
  daemon.config().port = 9441;
  daemon.config().address = before.ip + ":9441";
  daemon.Configure();
  ExpectServes(daemon);
  EXPECT_FALSE(RawTlsClient(before).connected());
  old.Send(kHealth);
  EXPECT_THAT(old.ReadUntil(kReady), HasSubstr(kReady));
}

TEST(TlsListenerTest, ClientThatMayNoLongerConnectIsEndedAndTheOthersAreNot) {
  TlsDaemon daemon;
  daemon.Configure();
  const TlsFiles b = daemon.Client(), c = daemon.Client(daemon.ca().Issue({.name = "host-c"}));
  RawTlsClient stays(daemon.config()), goes(daemon.config());
  ASSERT_TRUE(stays.Handshake(&b));
  ASSERT_TRUE(goes.Handshake(&c));
  ASSERT_TRUE(daemon.Until([&] { return daemon.View()->connections == 2; }));
  daemon.config().allow = {"host-b"};
  daemon.Configure();
  EXPECT_TRUE(goes.Ended());
  stays.Send(kHealth);
  EXPECT_THAT(stays.ReadUntil(kReady), HasSubstr(kReady));
}

TEST(TlsListenerTest, ItEndsWithItsTable) {
  TlsDaemon daemon;
  daemon.Configure();
  const TlsFiles files = daemon.Client();
  RawTlsClient client(daemon.config()), half(daemon.config());
  ASSERT_TRUE(client.Handshake(&files));
  daemon.Stop();
  EXPECT_FALSE(daemon.View());
  EXPECT_TRUE(client.Ended());
  EXPECT_EQ(half.ReadPlain(), "");
  EXPECT_FALSE(RawTlsClient(daemon.config()).connected());
  daemon.Configure();
  ExpectServes(daemon);
}

// What a handshake holds the control thread up: the longest that anything posted to it waits while one goes on.
TEST(TlsListenerTest, HandshakeHoldsTheControlThreadUpForMillisecondsAtMost) {
  for (const bool rsa : {false, true}) {
    TlsDaemon daemon;
    auto spec = daemon.Spec();
    spec.rsa = rsa;
    daemon.WriteFiles(daemon.ca().Issue(spec));
    daemon.Configure();
    const TlsFiles files = daemon.Client(daemon.ca().Issue({.rsa = rsa}));
    std::vector<double> cpu_ms;
    for (int i = 0; i < 50; ++i) {
      timespec before{}, after{};
      daemon.Do([&] { clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before); });
      RawTlsClient client(daemon.config());
      ASSERT_TRUE(client.Handshake(&files));
      client.Send(kHealth);
      ASSERT_THAT(client.ReadUntil(kReady), HasSubstr(kReady));
      daemon.Do([&] { clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after); });
      cpu_ms.push_back(static_cast<double>(after.tv_sec - before.tv_sec) * 1e3 +
                       static_cast<double>(after.tv_nsec - before.tv_nsec) / 1e6);
    }
    std::sort(cpu_ms.begin(), cpu_ms.end());
    printf("%s: handshake and one request take the control thread %.2f ms of CPU (median), %.2f ms at most\n",
           rsa ? "RSA-2048" : "ECDSA P-256", cpu_ms[cpu_ms.size() / 2], cpu_ms.back());
    if (getenv("EVERPORT_TIMED_TESTS")) {
      EXPECT_LT(cpu_ms[cpu_ms.size() / 2], 5.0);
    }
  }
}

TEST(TlsListenerTest, RefusalsAreMetrics) {
  fakes::FakeService service;
  EXPECT_THAT(MetricsText(service), testing::Not(HasSubstr("everport_api_tcp")));
  service.tcp = ListenerView{.address = "0.0.0.0:9440",
                             .certificate_not_after = 1'800'000'000,
                             .connections = 3,
                             .accepted = 7,
                             .refused = {{"expired", 2}, {"timeout", 0}},
                             .problems = {}};
  const std::string text = MetricsText(service);
  for (const char* line :
       {"everport_api_tcp_listening 1\n", "everport_api_tcp_connections 3\n", "everport_api_tcp_accepted_total 7\n",
        "everport_api_tcp_refused_total{cause=\"expired\"} 2\n",
        "everport_api_tcp_refused_total{cause=\"timeout\"} 0\n",
        "everport_api_tcp_certificate_expiry_timestamp_seconds 1800000000\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST(RefusalLogTest, SoManyLinesAMinute) {
  RefusalLog log("api", "more");
  const std::chrono::steady_clock::time_point begin{};
  for (unsigned i = 0; i < RefusalLog::kLines; ++i) EXPECT_TRUE(log.Note("x", begin + std::chrono::seconds(i)));
  EXPECT_FALSE(log.Note("x", begin + std::chrono::seconds(59)));
  EXPECT_TRUE(log.Note("x", begin + RefusalLog::kWindow));
}

}  // namespace
}  // namespace everport
