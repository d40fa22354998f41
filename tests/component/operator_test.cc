// What an operator is told when something is amiss: the programs as they are called by hand, and what they print.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/json/serialize.hpp>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/component/stack.h"

namespace everport::component {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr char kNone[] = "ep-none0";  // no such device

struct Said {
  int status = -1;
  std::string text;  // stdout and stderr
};

// To its end; a program that goes on is ended with status 124.
Said Call(const std::string& command) {
  Said said;
  std::FILE* pipe = ::popen(absl::StrCat("timeout 30 ", command, " 2>&1").c_str(), "re");
  if (!pipe) return said;
  char buffer[4096];
  while (const size_t got = std::fread(buffer, 1, sizeof buffer, pipe)) said.text.append(buffer, got);
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) said.status = WEXITSTATUS(status);
  return said;
}

class OperatorTest : public testing::Test {
 protected:
  Said Ctl(const std::string& arguments) const {
    return Call(absl::StrCat(EVERPORTCTL, " --api ", stack_.dir() / "run/api.sock", " ", arguments));
  }
  void Reload(const std::string& config, const std::string& answer) {
    const size_t from = stack_.daemon().log().size();
    stack_.dir().Write("everport.toml", config);
    stack_.daemon().Signal(SIGHUP);
    ASSERT_TRUE(stack_.daemon().WaitLog(answer, absl::Seconds(10), from)) << stack_.Logs();
  }
  template <typename Condition>
  bool Until(Condition condition) const {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (!condition()) {
      if (absl::Now() > deadline) return false;
      absl::SleepFor(absl::Milliseconds(20));
    }
    return true;
  }
  boost::json::object Startup() const {
    const auto health = stack_.Get("/v1/health");
    return health.ok() ? health->at("startup").as_object() : boost::json::object{{"total_ms", 0}};
  }
  void AddPortWithoutDevice() { stack_.AddPort({.name = "vm", .uplink_kind = "af_packet", .uplink_device = kNone}); }

  Stack stack_;
};

// A host on which everportd came up and everport-keeper did not: what is wrong with the uplinks is told all the same.
TEST_F(OperatorTest, WithoutAKeeperUplinksAreTriedAndTheMissingDeviceIsNamed) {
  AddPortWithoutDevice();
  stack_.WriteConfig();
  ASSERT_OK(stack_.StartDaemon());
  ASSERT_TRUE(stack_.daemon().WaitLog(kNone, absl::Seconds(5))) << stack_.Logs();
  const auto port = stack_.Get("/v1/ports/vm");
  ASSERT_TRUE(port.ok()) << port.status();
  EXPECT_EQ(port->at("path").at("reason"), "no uplink works");
  EXPECT_THAT(boost::json::serialize(port->at("uplinks").at(0).at("error")), HasSubstr(kNone));
  EXPECT_THAT(Ctl("ports").text, HasSubstr("keeper not connected"));
  EXPECT_EQ(Ctl("health").status, 1);
}

TEST_F(OperatorTest, ARefusedReloadStaysInTheHealthUntilOneSucceeds) {
  AddPortWithoutDevice();
  ASSERT_OK(stack_.Start());
  EXPECT_THAT(Ctl("health").text, Not(HasSubstr("not reloaded")));
  Reload(stack_.ConfigText() + "mtuu = 1\nother = 2\n", "not reloaded: ");
  const Said ill = Ctl("health");
  EXPECT_EQ(ill.status, 0) << "it serves as before";
  EXPECT_THAT(ill.text, HasSubstr("configuration: not reloaded: "));
  EXPECT_THAT(ill.text, HasSubstr("mtuu: unknown key"));
  EXPECT_THAT(ill.text, HasSubstr("(and 1 more: everportd --check lists all)"));
  EXPECT_THAT(Ctl("doctor").text, HasSubstr("configuration"));
  Reload(stack_.ConfigText(), " reloaded: 0 added");
  EXPECT_THAT(Ctl("health").text, Not(HasSubstr("not reloaded")));
}

// The answer comes when its uplinks have been tried, and so tells of them.
TEST_F(OperatorTest, PortAddTellsWhichUplinksFailed) {
  ASSERT_OK(stack_.Start());
  const std::string add =
      absl::StrCat("port add vm --socket ", stack_.Socket("vm"), " --uplink af_packet:", kNone, " --uplink ");
  const Said failed = Ctl(add + "af_packet:ep-none1");
  EXPECT_EQ(failed.status, 0) << failed.text;
  EXPECT_THAT(failed.text, StartsWith("port vm added: waiting, no path\n"));
  EXPECT_THAT(failed.text, HasSubstr("uplink 0 (af_packet) does not work: network device ep-none0 does"));
  EXPECT_THAT(failed.text, HasSubstr("uplink 1 (af_packet) does not work: network device ep-none1 does"));
  ASSERT_EQ(Ctl("port remove vm").status, 0);
  const Said second = Ctl(add + "vdev:net_null0");
  EXPECT_THAT(second.text, StartsWith("port vm added: waiting, path 1 vdev:net_null0\n"));
  EXPECT_THAT(second.text, HasSubstr("uplink 0 (af_packet) does not work: network device ep-none0 does"));
}

TEST_F(OperatorTest, PortAddWithoutAKeeperTellsTheSame) {
  stack_.WriteConfig();
  ASSERT_OK(stack_.StartDaemon());
  const Said said = Ctl(absl::StrCat("port add vm --socket ", stack_.Socket("vm"), " --uplink af_packet:", kNone));
  EXPECT_THAT(said.text, HasSubstr("uplink 0 (af_packet) does not work: network device ep-none0 does"))
      << stack_.Logs();
}

// state_dir is a file: as little use as one on a full or read-only disk, to root too.
TEST_F(OperatorTest, AChoiceByHandThatCannotBeSavedIsToldAndSavedWhenThatIsPossible) {
  stack_.dir().Write("state", "");
  stack_.AddPort(
      {.name = "vm", .uplink_kind = "vdev", .uplink_device = "net_null0", .more_uplinks = {{"vdev", "net_null1"}}});
  ASSERT_OK(stack_.Start());
  const std::string unsaved = absl::StrCat("port vm: the path chosen by hand holds until everportd ends, and is not ",
                                           "saved: ", stack_.dir() / "state");
  ASSERT_TRUE(Until([&] { return Ctl("path vm 0").status == 0; })) << Ctl("path vm 0").text;
  const Said said = Ctl("path vm 1");
  EXPECT_EQ(said.status, 0) << said.text;
  EXPECT_THAT(said.text, HasSubstr("everportctl: warning: " + unsaved));
  EXPECT_THAT(said.text, HasSubstr("port vm: path 1 vdev:net_null1 (relay)\n"));
  EXPECT_THAT(Ctl("health").text, HasSubstr(unsaved));
  EXPECT_THAT(boost::json::serialize(stack_.Get("/v1/ports/vm")->at("path").at("warning")), HasSubstr("is not saved"));

  ASSERT_EQ(::unlink((stack_.dir() / "state").c_str()), 0);
  EXPECT_TRUE(Until([&] { return Ctl("health").text.find("is not saved") == std::string::npos; }));
  EXPECT_EQ(stack_.Get("/v1/ports/vm")->at("path").at("warning"), "");
  stack_.KillDaemon();
  ASSERT_OK(stack_.StartDaemon());
  EXPECT_EQ(stack_.Get("/v1/ports/vm")->at("path").at("chosen"), 1);
}

// What comes later is no part of the start.
TEST_F(OperatorTest, StartUpFiguresStayAsTheyWereWhenTheStartHadEnded) {
  stack_.AddPort({.name = "vm", .uplink_kind = "vdev", .uplink_device = "net_null0"});
  ASSERT_OK(stack_.Start());
  ASSERT_TRUE(Until([&] { return Startup().at("total_ms").to_number<double>() > 0; }));
  const boost::json::object before = Startup();
  ASSERT_EQ(Ctl(absl::StrCat("port add more --socket ", stack_.Socket("more"), " --uplink vdev:net_null1")).status, 0);
  EXPECT_EQ(Startup(), before);
}

TEST_F(OperatorTest, ASecondDaemonIsToldWhoTheFirstIs) {
  ASSERT_OK(stack_.Start());
  const Said said = Call(absl::StrCat(EVERPORT_DAEMON, " --config ", stack_.dir() / "everport.toml"));
  EXPECT_EQ(said.status, 1);
  EXPECT_THAT(said.text, HasSubstr(absl::StrCat("everportd (pid ", stack_.daemon().pid(), ") listens there")));
  EXPECT_EQ(Ctl("health").status, 0) << "the first one goes on";
}

TEST_F(OperatorTest, CheckTellsAllAndStartsNothing) {
  AddPortWithoutDevice();
  const std::string file = stack_.WriteConfig();
  for (const char* program : {EVERPORT_DAEMON, EVERPORT_KEEPER}) {
    const Said said = Call(absl::StrCat(program, " --check --config ", file));
    const bool is_daemon = program == std::string(EVERPORT_DAEMON);
    EXPECT_EQ(said.status, is_daemon ? 1 : 0) << said.text;
    EXPECT_THAT(said.text, HasSubstr("everport.toml: 1 port, no errors in the file; this host "));
    const auto missing = HasSubstr("port vm: uplink 0: network interface ep-none0 is missing");
    EXPECT_EQ(testing::Matches(missing)(said.text), is_daemon) << said.text;
  }
  stack_.dir().Write("everport.toml", stack_.ConfigText() + "mtuu = 1\n[daemonn]\n");
  for (const char* program : {EVERPORT_DAEMON, EVERPORT_KEEPER}) {
    const Said said = Call(absl::StrCat(program, " --check --config ", file));
    EXPECT_EQ(said.status, 78);
    EXPECT_THAT(said.text, HasSubstr("mtuu: unknown key"));
    EXPECT_THAT(said.text, HasSubstr("daemonn: unknown key; did you mean daemon?"));
  }
}

TEST_F(OperatorTest, EveryProgramHasAVersion) {
  for (const char* program : {EVERPORT_DAEMON, EVERPORT_KEEPER, EVERPORTCTL}) {
    const Said said = Call(absl::StrCat(program, " --version"));
    EXPECT_EQ(said.status, 0);
    EXPECT_THAT(said.text, HasSubstr(" " EVERPORT_VERSION "\n"));
  }
}

}  // namespace
}  // namespace everport::component
