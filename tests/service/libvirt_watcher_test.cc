// Ports of domains, with a source of domains that says what the test says and a table that notes what is asked of it.
#include "backend/service/libvirt_watcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/fakes/temp_dir.h"

namespace everport {
namespace {

using migration::SeenDomain;
using migration::Sighting;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

struct FakeLibvirt {
  std::function<void(Sighting)> report;  // empty while nobody watches
  LibvirtConfig config;
  int nudges = 0;
};

class FakeSource : public migration::DomainSource {
 public:
  explicit FakeSource(FakeLibvirt& libvirt) : libvirt_(libvirt) {}
  ~FakeSource() override { libvirt_.report = nullptr; }
  void Nudge() override { ++libvirt_.nudges; }

 private:
  FakeLibvirt& libvirt_;
};

class FakeTable : public LibvirtWatcher::PortTable {
 public:
  std::vector<PortConfig> OtherPorts() const override { return others; }
  bool MayHaveGuest(const std::string& name) const override { return guests.count(name) > 0; }
  void MakeDomainPort(const PortConfig& port) override { calls.push_back("make " + port.name); }
  void RemoveDomainPort(const std::string& name) override { calls.push_back("remove " + name); }
  std::vector<std::string> Calls() { return std::exchange(calls, {}); }

  std::vector<PortConfig> others;
  std::set<std::string> guests;
  std::vector<std::string> calls;
};

class LibvirtWatcherTest : public ::testing::Test {
 protected:
  LibvirtWatcherTest() : store_(dir_ / "state") {
    std::filesystem::create_directory(Folder());
    config_.socket_folder = Folder();
    config_.uplinks = {{UplinkKind::kTap, "ep-{port}", ""}};
    Start();
  }

  std::string Folder() const { return dir_ / "vms"; }
  // A daemon's start.
  void Start() {
    watcher_ =
        std::make_unique<LibvirtWatcher>(io_, BuiltInContracts(), table_, store_, events_,
                                         [this](const LibvirtConfig& config, std::function<void(Sighting)> report) {
                                           libvirt_.report = std::move(report);
                                           libvirt_.config = config;
                                           return std::make_unique<FakeSource>(libvirt_);
                                         });
    watcher_->Load([](const PortConfig&) { return absl::OkStatus(); });
    watcher_->Configure(config_);
    Run();
  }
  void Run() {
    io_.restart();
    io_.poll();
  }
  void Say(Sighting sighting) {
    libvirt_.report(std::move(sighting));
    Run();
  }
  // Until this is so, or for ten seconds.
  bool RunUntil(const std::function<bool()>& done) {
    for (int i = 0; i < 1000 && !done(); ++i) {
      Run();
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return done();
  }
  SeenDomain DomainWith(const std::string& name, const std::vector<std::string>& ports) const {
    SeenDomain domain;
    domain.uuid = "uuid-of-" + name;
    domain.domain.name = name;
    for (const std::string& port : ports) {
      domain.domain.nics.push_back({.socket = absl::StrCat(Folder(), "/", port, ".sock"), .mac = "52:54:00:00:00:01"});
    }
    return domain;
  }
  std::vector<std::string> Told() const {
    std::vector<std::string> texts;
    for (const EventView& event : events_.Recent()) texts.push_back(absl::StrCat(event.port, ": ", event.message));
    return texts;
  }
  std::vector<std::string> Saved() const {
    std::vector<std::string> names;
    const auto saved = store_.LoadDomainPorts(BuiltInContracts());
    for (const DomainPort& port : saved.value().ports) names.push_back(port.config.name);
    return names;
  }

  fakes::TempDir dir_;
  StateStore store_;
  boost::asio::io_context io_;
  EventLog events_;
  FakeTable table_;
  FakeLibvirt libvirt_;
  LibvirtConfig config_;
  std::unique_ptr<LibvirtWatcher> watcher_;
};

const absl::Status kAway =
    absl::UnavailableError("libvirt at qemu:///system: no such socket; is its libvirtd running?");

TEST_F(LibvirtWatcherTest, PortsComeAndGoWithTheirDomain) {
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"})}});
  EXPECT_THAT(table_.Calls(), ElementsAre("make a"));
  EXPECT_THAT(Saved(), ElementsAre("a"));
  ASSERT_NE(watcher_->Find("a"), nullptr);
  EXPECT_EQ(watcher_->Find("a")->domain, "vm1");
  Say({absl::OkStatus(), {}});
  EXPECT_THAT(table_.Calls(), ElementsAre("remove a"));
  EXPECT_THAT(Saved(), IsEmpty());
  EXPECT_THAT(Told(), AllOf(Contains("a: made for domain vm1, interface 52:54:00:00:00:01"),
                            Contains("a: removed: domain vm1 has it no more")));
}

TEST_F(LibvirtWatcherTest, ASocketThatAppearsIsAskedAbout) {
  const int before = libvirt_.nudges;
  std::ofstream(Folder() + "/a.sock") << "";
  EXPECT_TRUE(RunUntil([&] { return libvirt_.nudges > before; }));
}

TEST_F(LibvirtWatcherTest, AFolderThatComesLaterIsWatched) {
  std::filesystem::remove(Folder());
  watcher_->Tick();
  EXPECT_THAT(watcher_->Problems(),
              ElementsAre(AllOf(HasSubstr("libvirt: socket_folder " + Folder()), HasSubstr("No such file"),
                                HasSubstr("make it, or correct [libvirt]"))));
  std::filesystem::create_directory(Folder());
  const int before = libvirt_.nudges;
  watcher_->Tick();
  Run();
  EXPECT_GT(libvirt_.nudges, before);  // a socket may have come with it
  EXPECT_THAT(watcher_->Problems(), IsEmpty());
  const int then = libvirt_.nudges;
  std::ofstream(Folder() + "/a.sock") << "";
  EXPECT_TRUE(RunUntil([&] { return libvirt_.nudges > then; }));
}

TEST_F(LibvirtWatcherTest, WhileLibvirtIsAwayPortsStay) {
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"})}});
  EXPECT_TRUE(watcher_->View()->connected);
  Say({kAway, {}});
  Say({kAway, {}});
  EXPECT_THAT(table_.Calls(), ElementsAre("make a"));
  EXPECT_FALSE(watcher_->View()->connected);
  EXPECT_THAT(watcher_->Problems(), ElementsAre(absl::StrCat("libvirt: ", kAway.message())));
  const auto told = Told();
  EXPECT_EQ(std::count_if(told.begin(), told.end(),
                          [](const auto& text) { return absl::StrContains(text, "not connected"); }),
            1);
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"})}});
  EXPECT_THAT(table_.Calls(), IsEmpty());
  EXPECT_THAT(watcher_->Problems(), IsEmpty());
}

TEST_F(LibvirtWatcherTest, AnEarlierDaemonsPortsAreKnown) {
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"}), DomainWith("vm2", {"b"})}});
  table_.Calls();
  watcher_.reset();
  Start();
  EXPECT_NE(watcher_->Find("a"), nullptr);
  Say({kAway, {}});
  EXPECT_THAT(table_.Calls(), IsEmpty());
  Say({absl::OkStatus(), {DomainWith("vm2", {"b"})}});  // the other ended meanwhile
  EXPECT_THAT(table_.Calls(), ElementsAre("remove a"));
}

TEST_F(LibvirtWatcherTest, WhoseRecordIsBrokenIsToldByLibvirt) {
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"})}});
  table_.Calls();
  watcher_.reset();
  std::ofstream(dir_ / "state/libvirt.json") << "[{";
  Start();
  EXPECT_TRUE(watcher_->unknown());
  Say({kAway, {}});
  EXPECT_TRUE(watcher_->unknown());
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"})}});
  EXPECT_FALSE(watcher_->unknown());
  EXPECT_THAT(table_.Calls(), ElementsAre("make a"));
  EXPECT_THAT(Saved(), ElementsAre("a"));
}

TEST_F(LibvirtWatcherTest, OnePortThatCannotBeServedDoesNotConcernTheOthers) {
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"})}});
  std::vector<DomainPort> ports = watcher_->made();
  ports.push_back(ports[0]);
  ports[1].config.name = "b";
  ports[1].config.contract = "mine-1";
  ASSERT_TRUE(store_.SaveDomainPorts(ports).ok());
  table_.Calls();
  watcher_.reset();
  Start();
  EXPECT_NE(watcher_->Find("a"), nullptr);
  EXPECT_EQ(watcher_->Find("b"), nullptr);
  EXPECT_TRUE(watcher_->unknown());  // its guest's session is kept
  EXPECT_THAT(Told(), Contains(HasSubstr("libvirt.json: port of domain vm1 left out: ")));
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"})}});
  EXPECT_FALSE(watcher_->unknown());
}

TEST_F(LibvirtWatcherTest, WhatIsLookedAtAgainIsAskedFor) {
  const int before = libvirt_.nudges;
  watcher_->LookAgain();
  EXPECT_EQ(libvirt_.nudges, before + 1);
  watcher_->Configure(std::nullopt);
  watcher_->LookAgain();
}

TEST_F(LibvirtWatcherTest, AGuestThatIsThereKeepsItsPort) {
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"})}});
  table_.Calls();
  table_.guests = {"a"};
  Say({absl::OkStatus(), {}});
  watcher_->Tick();
  EXPECT_THAT(table_.Calls(), IsEmpty());
  EXPECT_THAT(Saved(), ElementsAre("a"));
  table_.guests = {};
  watcher_->Tick();
  EXPECT_THAT(table_.Calls(), ElementsAre("remove a"));
  EXPECT_THAT(Saved(), IsEmpty());
}

TEST_F(LibvirtWatcherTest, WhatIsRemovedByHandStaysAwayWhileItsDomainRuns) {
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"})}});
  table_.Calls();
  watcher_->Release(PortConfig(watcher_->Find("a")->config));
  EXPECT_EQ(watcher_->Find("a"), nullptr);
  EXPECT_THAT(Saved(), IsEmpty());
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"})}});
  EXPECT_THAT(table_.Calls(), IsEmpty());
  Say({absl::OkStatus(), {}});
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"})}});
  EXPECT_THAT(table_.Calls(), ElementsAre("make a"));
}

// As everportctl migrate does with the source's port: libvirt may not have told of the domain's end yet.
TEST_F(LibvirtWatcherTest, AnotherPortThatIsRemovedIsNotMadeAnew) {
  PortConfig other;
  other.name = "a";
  other.socket = Folder() + "/a.sock";
  table_.others = {other};
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"})}});
  table_.others = {};
  watcher_->Release(other);
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"})}});
  EXPECT_THAT(table_.Calls(), IsEmpty());
}

// It is about the domain that has gone, not about the next one.
TEST_F(LibvirtWatcherTest, WhatIsRemovedAfterItsDomainsEndComesWithTheNext) {
  PortConfig other;
  other.name = "a";
  other.socket = Folder() + "/a.sock";
  table_.others = {other};
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"})}});
  Say({absl::OkStatus(), {}});
  table_.others = {};
  watcher_->Release(other);
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"})}});
  EXPECT_THAT(table_.Calls(), ElementsAre("make a"));
}

TEST_F(LibvirtWatcherTest, ARefusalIsToldOnceAndStaysAProblem) {
  SeenDomain domain = DomainWith("vm1", {"a"});
  domain.domain.nics[0].server = false;
  for (int i = 0; i < 3; ++i) Say({absl::OkStatus(), {domain}});
  const auto told = Told();
  EXPECT_EQ(
      std::count_if(told.begin(), told.end(), [](const auto& text) { return absl::StrContains(text, "no port"); }), 1);
  EXPECT_THAT(watcher_->Problems(),
              ElementsAre(AllOf(HasSubstr("libvirt: domain vm1: interface"), HasSubstr("mode='server'"))));
  EXPECT_EQ(watcher_->View()->refused, 1u);
  Say({absl::OkStatus(), {}});
  EXPECT_THAT(watcher_->Problems(), IsEmpty());
}

TEST_F(LibvirtWatcherTest, AnInterfaceThatIsBeingAttachedIsToldOf) {
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"})}});
  const int before = libvirt_.nudges;
  boost::asio::local::stream_protocol::acceptor hot(io_, Folder() + "/hot.sock");
  ASSERT_TRUE(RunUntil([&] { return libvirt_.nudges > before; }));
  SeenDomain hung = DomainWith("vm1", {});
  hung.status = absl::DeadlineExceededError("libvirt does not give its XML");
  Say({absl::OkStatus(), {hung}});
  EXPECT_THAT(table_.Calls(), ElementsAre("make a"));  // and it stays
  EXPECT_THAT(Told(), Contains(AllOf(HasSubstr(Folder() + "/hot.sock: no domain is known to have it, and domain vm1"),
                                     HasSubstr("everportctl port add NAME --socket"))));
}

TEST_F(LibvirtWatcherTest, SwitchedOffItLeavesThePorts) {
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"})}});
  auto late = libvirt_.report;
  late({absl::OkStatus(), {}});  // on its way
  watcher_->Configure(std::nullopt);
  Run();
  EXPECT_FALSE(libvirt_.report);
  EXPECT_THAT(table_.Calls(), ElementsAre("make a"));
  EXPECT_THAT(Saved(), ElementsAre("a"));
  EXPECT_FALSE(watcher_->View().has_value());
}

TEST_F(LibvirtWatcherTest, ItBeginsAnewWhenTheConfigurationIsAnother) {
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"})}});
  config_.uri = "test:///default";
  watcher_->Configure(config_);
  EXPECT_EQ(libvirt_.config.uri, "test:///default");
  EXPECT_FALSE(watcher_->View()->connected);
  EXPECT_THAT(table_.Calls(), ElementsAre("make a"));
}

TEST_F(LibvirtWatcherTest, WhatCannotBeSavedIsAProblemUntilItIs) {
  watcher_.reset();
  std::filesystem::remove_all(dir_ / "state");
  std::ofstream(dir_ / "state") << "a file where a folder is to be";
  Start();
  Say({absl::OkStatus(), {DomainWith("vm1", {"a"})}});
  EXPECT_THAT(table_.Calls(), ElementsAre("make a"));
  EXPECT_THAT(watcher_->Problems(), Contains(HasSubstr("libvirt: ports of domains are not saved: ")));
  std::filesystem::remove(dir_ / "state");
  watcher_->Tick();
  EXPECT_THAT(watcher_->Problems(), IsEmpty());
  EXPECT_THAT(Saved(), ElementsAre("a"));
}

}  // namespace
}  // namespace everport
