// The API over TCP as an operator sets it up: with the operator guide's own commands, the daemon and everportctl.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/json/serialize.hpp>
#include <cstdio>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/component/stack.h"

namespace everport::component {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

struct Said {
  int status = -1;
  std::string text;  // stdout and stderr
};

Said Call(const std::string& command) {
  Said said;
  std::FILE* pipe = ::popen(absl::StrCat("exec 2>&1; ", command).c_str(), "re");
  if (!pipe) return said;
  char buffer[4096];
  while (const size_t got = std::fread(buffer, 1, sizeof buffer, pipe)) said.text.append(buffer, got);
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) said.status = WEXITSTATUS(status);
  return said;
}

class ListenTest : public testing::Test {
 protected:
  // The commands of the guide's section "A small CA" that begin so, for this test's folder and address.
  std::string Commands(const std::vector<std::string>& beginnings) const {
    std::ifstream guide(OPERATOR_GUIDE);
    std::string commands;
    bool in_section = false;
    for (std::string line; std::getline(guide, line);) {
      if (absl::StartsWith(line, "#")) in_section = line == "### A small CA";
      for (const std::string& beginning : beginnings) {
        if (in_section && absl::StartsWith(line, "    " + beginning)) absl::StrAppend(&commands, line, "\n");
      }
    }
    return absl::StrReplaceAll(commands,
                               {{"/etc/everport", stack_.dir() / "etc"}, {"10.0.0.1", ip_}, {" -g everport", ""}});
  }
  Said InFolder(const std::string& commands) const {
    return Call(absl::StrCat("cd ", stack_.dir().path(), " && mkdir -p etc && set -e\n", commands));
  }
  void SetUp() override {
    const Said made = InFolder(Commands({"openssl", "printf", "install"}));
    ASSERT_EQ(made.status, 0) << made.text;
    const auto path = [&](const char* name) { return absl::StrCat("\"", stack_.dir() / name, "\"\n"); };
    stack_.options().listen = absl::StrCat("address = \"", ip_, ":9440\"\ncertificate = ", path("etc/host.crt"),
                                           "key = ", path("etc/host.key"), "ca = ", path("etc/ca.crt"));
    stack_.AddWire("left", "right");
  }
  Said Ctl(const std::string& arguments) const {
    const auto& dir = stack_.dir();
    return Call(absl::StrCat("timeout 30 ", EVERPORTCTL, " --api https://", ip_, ":9440 --cert ", dir / "etc/host.crt",
                             " --key ", dir / "etc/host.key", " --ca ", dir / "etc/ca.crt", " ", arguments));
  }
  Said Check() const {
    return Call(absl::StrCat("timeout 30 ", EVERPORT_DAEMON, " --check --config ", stack_.dir() / "everport.toml"));
  }
  void Reload(const std::string& answer) {
    const size_t from = stack_.daemon().log().size();
    stack_.WriteConfig();
    stack_.daemon().Signal(SIGHUP);
    ASSERT_TRUE(stack_.daemon().WaitLog(answer, absl::Seconds(20), from)) << stack_.Logs();
  }

  // Of this process' own.
  const std::string ip_ =
      absl::StrCat("127.", 1 + (::getpid() >> 16) % 200, ".", (::getpid() >> 8) & 255, ".", ::getpid() & 255);
  Stack stack_;
};

TEST_F(ListenTest, GuidesCertificatesServeAndAreRenewedByReload) {
  ASSERT_OK(stack_.Start());
  ASSERT_TRUE(stack_.daemon().WaitLog("keeper connected", absl::Seconds(30), 0)) << stack_.Logs();
  const Said ports = Ctl("ports");
  EXPECT_EQ(ports.status, 0) << ports.text;
  EXPECT_THAT(ports.text, HasSubstr("left"));
  EXPECT_THAT(Ctl("events --no-follow").text,
              HasSubstr(absl::StrCat("the API listens on ", ip_, ":9440 (TLS, CN=hv1)")));
  EXPECT_THAT(stack_.GetText("/metrics").value_or(""), HasSubstr("everport_api_tcp_listening 1\n"));

  // Renewed: the third command once more, for longer.
  const std::string renew = absl::StrReplaceAll(Commands({"openssl x509"}), {{"-days 365", "-days 700"}});
  ASSERT_EQ(InFolder(renew + Commands({"install"})).status, 0);
  Reload("the API over TCP has a new certificate (CN=hv1), valid until ");
  EXPECT_EQ(Ctl("ports").status, 0);

  // One that is of another key is not taken, and no port waits for it to be mended.
  ASSERT_EQ(InFolder(Commands({"openssl req -newkey", "openssl x509"}) + "cp hv1.crt etc/host.crt").status, 0);
  stack_.AddPort({.name = "later", .uplink_kind = "vdev", .uplink_device = "net_null0"});
  Reload("reloaded: 1 added");
  EXPECT_THAT(stack_.Logs(), HasSubstr("is not the key of "));
  EXPECT_THAT(boost::json::serialize(*stack_.Get("/v1/health")), HasSubstr("goes on with what it had before"));
  ASSERT_EQ(InFolder("cp hv1.key etc/host.key").status, 0);
  Reload("valid until ");
  EXPECT_EQ(Ctl("ports").status, 0);

  stack_.options().listen.clear();
  Reload("the API over TCP has ended");
  EXPECT_EQ(Ctl("ports").status, 1);
  EXPECT_THAT(Ctl("ports").text, HasSubstr("cannot connect: Connection refused; does everportd run there"));
  EXPECT_THAT(stack_.GetText("/metrics").value_or(""), Not(HasSubstr("everport_api_tcp")));
}

TEST_F(ListenTest, CheckLooksAtTheFiles) {
  stack_.WriteConfig();
  EXPECT_THAT(Check().text, Not(HasSubstr("daemon.listen")));
  ASSERT_EQ(InFolder("chmod 0644 etc/host.key").status, 0);
  const Said open = Check();
  EXPECT_THAT(open.text, HasSubstr("everportd: warning: daemon.listen.key: "));
  ASSERT_EQ(InFolder("openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out etc/host.key; rm etc/ca.crt")
                .status,
            0);
  const Said bad = Check();
  EXPECT_EQ(bad.status, 1);
  EXPECT_THAT(bad.text, HasSubstr("is not the key of "));
  EXPECT_THAT(bad.text,
              HasSubstr("ca.crt: cannot be read (No such file or directory); make it, or give daemon.listen.ca"));
}

TEST_F(ListenTest, AddressThatIsTakenHoldsUpNoGuest) {
  Stack other(stack_.options());
  other.AddWire("a", "b");
  ASSERT_OK(other.Start());
  ASSERT_OK(stack_.Start());
  ASSERT_TRUE(stack_.daemon().WaitLog("keeper connected", absl::Seconds(30), 0)) << stack_.Logs();
  const auto health = stack_.Get("/v1/health");
  ASSERT_TRUE(health.ok()) << health.status();
  EXPECT_THAT(boost::json::serialize(*health), HasSubstr("Address already in use; another program"));
  EXPECT_EQ(health->at("ready").as_bool(), true);
  EXPECT_EQ(stack_.PortState("left"), "waiting");
  const size_t from = stack_.daemon().log().size();
  other.KillDaemon();
  EXPECT_TRUE(stack_.daemon().WaitLog("the API listens on", absl::Seconds(30), from)) << stack_.Logs();
  EXPECT_EQ(Ctl("ports").status, 0);
}

}  // namespace
}  // namespace everport::component
