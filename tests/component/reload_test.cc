// SIGHUP: the new file is a difference to the old one, applied to the ports that it concerns and no other; a broken
// file changes nothing and says where it is broken.
#include <gtest/gtest.h>
#include <signal.h>

#include <boost/json/serialize.hpp>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/component/bystanders.h"
#include "tests/component/stack.h"
#include "tests/fakes/traffic.h"

namespace everport::component {
namespace {

using fakes::FrontEnd;

class ReloadTest : public testing::Test {
 protected:
  void SetUp() override {
    stack_.AddWire("left", "right");
    const absl::Status started = stack_.Start();
    ASSERT_TRUE(started.ok()) << started;
    bystanders_ = std::make_unique<Bystanders>(stack_, "left", "right");
    ASSERT_TRUE(bystanders_->ready()) << stack_.Logs();
    sessions_ = stack_.PortNumber("left", "sessions");
  }
  // To keeper and daemon, as `systemctl reload` does.
  void Reload() {
    stack_.WriteConfig();
    stack_.daemon().Signal(SIGHUP);
    stack_.keeper().Signal(SIGHUP);
  }
  bool Eventually(const std::function<bool()>& done) { return bystanders_->Eventually(done); }
  void ExpectOthersUntouched() {
    EXPECT_EQ(bystanders_->Loss(), "") << stack_.Logs();
    EXPECT_EQ(stack_.PortNumber("left", "sessions"), sessions_);
    EXPECT_TRUE(stack_.daemon().running()) << stack_.Logs();
    EXPECT_TRUE(stack_.keeper().running()) << stack_.Logs();
  }

  Stack stack_;
  std::unique_ptr<Bystanders> bystanders_;
  int64_t sessions_ = 0;
};

TEST_F(ReloadTest, PortsComeAndGoBesideRunningOnes) {
  stack_.AddWire("new0", "new1");
  Reload();
  FrontEnd a({.socket = stack_.Socket("new0")}), b({.socket = stack_.Socket("new1")});
  for (FrontEnd* end : {&a, &b}) {
    end->Listen();
  }
  for (FrontEnd* end : {&a, &b}) {
    const absl::Status connected = end->Connect(absl::Seconds(10));
    ASSERT_TRUE(connected.ok()) << connected << "\n" << stack_.Logs();
  }
  fakes::Flow there(a, b, 7);
  fakes::Flow* const flows[] = {&there};
  EXPECT_TRUE(RunUntil(
      flows, [&] { return there.ledger().received > 500; }, absl::Seconds(5)))
      << stack_.Logs();
  ExpectOthersUntouched();

  stack_.RemovePort("new0");
  stack_.RemovePort("new1");
  Reload();
  EXPECT_TRUE(Eventually([&] { return a.socket().closed() && b.socket().closed(); })) << stack_.Logs();
  EXPECT_TRUE(Eventually([&] { return stack_.PortState("new0").empty(); })) << stack_.Logs();
  ExpectOthersUntouched();
}

TEST_F(ReloadTest, AnotherUplinkUnderARunningGuest) {
  stack_.AddPort({.name = "moved", .uplink_kind = "vdev", .uplink_device = "net_null0"});
  Reload();
  FrontEnd guest({.socket = stack_.Socket("moved")});
  const absl::Status connected = guest.Connect(absl::Seconds(10));
  ASSERT_TRUE(connected.ok()) << connected << "\n" << stack_.Logs();
  ASSERT_TRUE(Eventually([&] { return stack_.PortState("moved") == "running"; })) << stack_.Logs();
  stack_.ports().back().uplink_device = "net_null1";
  Reload();
  auto uplink = [&] {
    auto port = stack_.Get("/v1/ports/moved");
    return port.ok() && boost::json::serialize(*port).find("net_null1") != std::string::npos &&
           stack_.PortState("moved") == "running";
  };
  EXPECT_TRUE(Eventually(uplink)) << stack_.Logs();
  EXPECT_FALSE(guest.socket().closed()) << "the guest's session must not end";
  EXPECT_EQ(stack_.PortNumber("moved", "sessions"), 1);
  ExpectOthersUntouched();
}

// Ports that the API added are known from the state file alone: if that cannot be read, no session is ended for it, and
// the file is not written over.
TEST_F(ReloadTest, ABrokenStateFileEndsNoSession) {
  stack_.KillDaemon();
  const std::string file = stack_.dir() / "state/ports.json";
  std::filesystem::create_directories(stack_.dir() / "state");
  std::ofstream(file) << "[{\"name\":\"lost";
  stack_.RemovePort("right");  // of this daemon, in the keeper, and in no file: as a port of the API would be
  stack_.RemovePort("left");
  stack_.WriteConfig();
  const absl::Status started = stack_.StartDaemon();
  ASSERT_TRUE(started.ok()) << started;
  EXPECT_TRUE(Eventually([&] { return stack_.Logs().find("its session is kept") != std::string::npos; }))
      << stack_.Logs();
  const auto health = stack_.Get("/v1/health");
  ASSERT_TRUE(health.ok()) << health.status();
  EXPECT_NE(boost::json::serialize(*health).find("ports.json"), std::string::npos);
  std::string text;
  std::getline(std::ifstream(file), text);
  EXPECT_EQ(text, "[{\"name\":\"lost");
}

// What the API added is not forgotten because the file has had, for a while, what it clashes with.
TEST_F(ReloadTest, ASavedPortThatClashesWithTheFileIsKeptUntilItDoesNot) {
  const auto add = [&](const std::string& name, int device) {
    return stack_.Post("/v1/ports",
                       absl::StrCat(R"({"name":")", name, R"(","socket":")", stack_.Socket(name),
                                    R"(","uplink":[{"kind":"vdev","device":"net_null)", device, R"("}]})"));
  };
  ASSERT_TRUE(add("saved", 1).ok()) << stack_.Logs();
  stack_.KillDaemon();
  stack_.AddPort({.name = "saved", .uplink_kind = "vdev", .uplink_device = "net_null2"});
  stack_.WriteConfig();
  ASSERT_TRUE(stack_.StartDaemon().ok()) << stack_.Logs();
  const auto health = [&] { return stack_.GetText("/v1/health").value_or(""); };  // "" while it is not ready
  const std::string left_out = "port saved: saved, and left out: name";
  EXPECT_TRUE(Eventually([&] { return health().find(left_out) != std::string::npos; })) << health() << stack_.Logs();
  ASSERT_TRUE(add("other", 3).ok()) << stack_.Logs();  // which writes the file of saved ports
  const auto device = [&] {
    const auto port = stack_.Get("/v1/ports/saved");
    return port.ok() ? boost::json::serialize(port->at("uplinks")) : "";
  };
  EXPECT_NE(device().find("net_null2"), std::string::npos) << device() << stack_.Logs();

  stack_.RemovePort("saved");
  Reload();
  EXPECT_TRUE(Eventually([&] { return device().find("net_null1") != std::string::npos; })) << device() << stack_.Logs();
  EXPECT_EQ(health().find(left_out), std::string::npos);
  stack_.KillDaemon();
  ASSERT_TRUE(stack_.StartDaemon().ok()) << stack_.Logs();
  EXPECT_TRUE(Eventually([&] { return device().find("net_null1") != std::string::npos; })) << device() << stack_.Logs();
}

// Its session is ended, and the file's port served at once: not only after the next start.
TEST_F(ReloadTest, AFilesPortTakesOverTheSocketOfAnotherName) {
  const std::string socket = stack_.Socket("heir");
  ASSERT_TRUE(stack_
                  .Post("/v1/ports", absl::StrCat(R"({"name":"before","socket":")", socket,
                                                  R"(","uplink":[{"kind":"vdev","device":"net_null1"}]})"))
                  .ok())
      << stack_.Logs();
  stack_.KillDaemon();
  stack_.AddPort({.name = "heir", .uplink_kind = "vdev", .uplink_device = "net_null2"});
  stack_.WriteConfig();
  ASSERT_TRUE(stack_.StartDaemon().ok()) << stack_.Logs();
  ASSERT_TRUE(stack_.keeper().WaitLog("heir: served for daemon", absl::Seconds(10))) << stack_.Logs();
  FrontEnd guest({.socket = socket});  // later: else it would be a guest of the session that ends
  const absl::Status connected = guest.Connect(absl::Seconds(10));
  ASSERT_TRUE(connected.ok()) << connected << "\n" << stack_.Logs();
  EXPECT_TRUE(Eventually([&] { return stack_.PortState("heir") == "running"; })) << stack_.Logs();
  // What is saved of the other is left out, and can be removed.
  EXPECT_TRUE(stack_.Delete("/v1/ports/before").ok());
  stack_.RemovePort("heir");
  Reload();
}

TEST_F(ReloadTest, TheSameFileChangesNothing) {
  const size_t from = stack_.daemon().log().size();
  Reload();
  EXPECT_TRUE(stack_.daemon().WaitLog("reloaded: 0 added, 0 removed, 0 changed", absl::Seconds(5), from))
      << stack_.Logs();
  ExpectOthersUntouched();
}

struct Broken {
  const char* name;
  const char* text;  // added to the running configuration
  const char* key;   // that the message must name
};
void PrintTo(const Broken& broken, std::ostream* out) {
  *out << broken.name;
}
constexpr Broken kBroken[] = {
    {"UnknownKey",
     "[[port]]\nname = \"x\"\nsocket = \"/tmp/x.sock\"\nspeed = 10\n[[port.uplink]]\nkind = \"tap\"\ndevice = \"t\"\n",
     "speed"},
    {"WrongType",
     "[[port]]\nname = \"x\"\nsocket = \"/tmp/x.sock\"\nmtu = \"big\"\n[[port.uplink]]\nkind = \"tap\"\ndevice = "
     "\"t\"\n",
     "mtu"},
    {"DuplicatePort",
     "[[port]]\nname = \"left\"\nsocket = \"/tmp/x.sock\"\n[[port.uplink]]\nkind = \"tap\"\ndevice = \"t\"\n", "name"},
    {"UnknownUplinkKind",
     "[[port]]\nname = \"x\"\nsocket = \"/tmp/x.sock\"\n[[port.uplink]]\nkind = \"tapp\"\ndevice = \"t\"\n", "kind"},
    {"MissingDevice", "[[port]]\nname = \"x\"\nsocket = \"/tmp/x.sock\"\n[[port.uplink]]\nkind = \"tap\"\n", "device"},
    {"NotToml", "[[port\n", "everport.toml"},
};

class BrokenFile : public ReloadTest, public testing::WithParamInterface<Broken> {};

TEST_P(BrokenFile, IsRefusedWithFileLineAndKey) {
  const std::string good = stack_.ConfigText();
  const size_t daemon_log = stack_.daemon().log().size();
  stack_.dir().Write("everport.toml", good + GetParam().text);
  stack_.daemon().Signal(SIGHUP);
  stack_.keeper().Signal(SIGHUP);
  ASSERT_TRUE(stack_.daemon().WaitLog("everport.toml:", absl::Seconds(5), daemon_log)) << stack_.Logs();
  ASSERT_TRUE(
      stack_.daemon().WaitLog("\n", absl::Seconds(5), stack_.daemon().log().find("everport.toml:", daemon_log)));
  const std::string said = stack_.daemon().log().substr(daemon_log);
  EXPECT_NE(said.find(GetParam().key), std::string::npos) << said;
  ExpectOthersUntouched();
}
INSTANTIATE_TEST_SUITE_P(All, BrokenFile, testing::ValuesIn(kBroken),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace everport::component
