// The workflow over two fake hosts: what is done in which order, and what is left of it when a step fails.
#include "migration/workflow.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace everport::migration {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

using Calls = std::vector<std::string>;

PortView View(const std::string& name, const std::string& state) {
  PortView port;
  port.name = name;
  port.socket = "/run/vms/" + name + ".sock";
  port.mac = "52:54:00:00:00:02";
  port.contract = "everport-1";
  port.state = state;
  port.has_path = true;
  return port;
}

// A host's daemon: ports that are there, and errors to give next.
template <typename Api>
class FakeApi : public Api {
 public:
  FakeApi(std::string name, Calls& calls) : name_(std::move(name)), calls_(calls) {}
  std::string Address() const override { return "/" + name_ + "/api.sock"; }
  absl::StatusOr<std::vector<PortView>> Ports() override {
    if (!list_error.ok()) return list_error;
    return ports;
  }
  absl::Status Remove(const std::string& name) override {
    calls_.push_back(absl::StrCat(name_, " remove ", name));
    if (!remove_errors.empty()) {
      const absl::Status status = remove_errors.front();
      remove_errors.erase(remove_errors.begin());
      if (!status.ok()) return status;
    }
    const size_t before = ports.size();
    std::erase_if(ports, [&](const PortView& port) { return port.name == name; });
    return ports.size() < before ? absl::OkStatus() : absl::NotFoundError(name + ": no such port");
  }

  std::vector<PortView> ports;
  absl::Status list_error;
  std::vector<absl::Status> remove_errors;  // of the next calls

 protected:
  const std::string name_;
  Calls& calls_;
};

class FakeSource : public FakeApi<SourceApi> {
 public:
  using FakeApi::FakeApi;
  absl::StatusOr<Offer> OfferOf(const PortView& port) override {
    if (!offer_error.ok()) return offer_error;
    return Offer{port.contract};
  }
  absl::Status offer_error;
};

class FakeDestination : public FakeApi<DestinationApi> {
 public:
  using FakeApi::FakeApi;
  absl::Status Ready() override { return ready; }
  absl::StatusOr<std::vector<PortView>> PortsSoon() override {
    if (!ready.ok()) return ready;
    return ports;
  }
  absl::StatusOr<Compatibility> Check(const Offer&) override {
    if (!check_error.ok()) return check_error;
    return answer;
  }
  absl::StatusOr<std::string> Add(const PortWish& wish) override {
    if (wish.port.postcopy && refuses_postcopy)
      return absl::FailedPreconditionError("port: postcopy: needs the keeper");
    calls_.push_back(absl::StrCat("b add ", wish.port.name, " ", wish.uplinks.empty() ? "" : wish.uplinks[0]));
    if (wish.port.name == fails_to_add) {
      if (adds_all_the_same) ports.push_back(wish.port);
      return add_error;
    }
    ports.push_back(wish.port);
    ports.back().state = "waiting";
    ports.back().frames = 0;
    return "";
  }

  absl::Status ready, check_error, add_error = absl::FailedPreconditionError("no such bridge");
  Compatibility answer{.compatible = true, .findings = {}};
  std::string fails_to_add;
  bool refuses_postcopy = false;
  bool adds_all_the_same = false;
};

class FakeHypervisor : public Hypervisor {
 public:
  FakeHypervisor(FakeDestination& destination, Calls& calls) : destination_(destination), calls_(calls) {}
  absl::StatusOr<Domain> Read() override {
    if (!read_error.ok()) return read_error;
    return domain;
  }
  absl::Status CheckDestination() override { return check; }
  absl::Status Migrate(const std::map<std::string, std::string>& map,
                       const std::function<Pace(const Progress&)>& progress) override {
    sockets = map;
    calls_.emplace_back("migrate");
    for (int second = 0; second < seconds; ++second) {
      if (second == act_at) act();
      const Pace pace = progress({.total = remaining, .remaining = remaining, .elapsed_s = second + 0.0});
      paces.push_back(pace);
      if (pace == Pace::kAbort && !too_late) return absl::CancelledError("cancelled");
    }
    if (!migrate_error.ok()) return migrate_error;
    Arrive();
    return absl::OkStatus();
  }
  absl::StatusOr<Account> Reckon() override { return Account{.downtime_ms = 60, .total_ms = 2400, .transferred = 9}; }
  Place Settle() override { return place; }
  absl::Status CleanDestination() override {
    calls_.emplace_back("clean");
    return clean_error;
  }
  std::string DestinationCommand() const override { return "virsh -c 'qemu+tls://b/system'"; }

  void Arrive() {
    for (PortView& port : destination_.ports) {
      port.state = arrives_as;
      port.frames += frames;
    }
  }

  Domain domain;
  absl::Status read_error, check, migrate_error, clean_error;
  Place place = Place::kSource;
  std::map<std::string, std::string> sockets;
  std::string arrives_as = "running";
  uint64_t frames = 7;
  bool too_late = false;
  int seconds = 3, act_at = -1;
  uint64_t remaining = 1 << 30;
  std::vector<Pace> paces;
  std::function<void()> act;

 private:
  FakeDestination& destination_;
  Calls& calls_;
};

class Recorder : public Observer {
 public:
  void OnStage(const std::string& stage, Event event, const std::string& detail) override {
    if (event == Event::kStarted) stages.push_back(stage);
    if (event == Event::kNote) notes.push_back(detail);
    if (event == Event::kRolledBack) undone.push_back(stage);
    if (event == Event::kRollbackFailed) not_undone.push_back(stage);
    if (event == Event::kStarted && stage == act_at) act();
  }
  void OnProgress(const Progress&) override { ++progress; }

  std::vector<std::string> stages, notes, undone, not_undone;
  int progress = 0;
  std::string act_at;
  std::function<void()> act;
};

class WorkflowTest : public testing::Test {
 protected:
  WorkflowTest() {
    for (const char* name : {"net0", "net1"}) {
      source.ports.push_back(View(name, "running"));
      hypervisor.domain.nics.push_back({.socket = source.ports.back().socket, .mac = "52:54:00:00:00:02"});
    }
    hypervisor.domain.running = hypervisor.domain.shared_memory = true;
    options.domain = "vm1";
    options.uplinks = {"tap:ep-{port},bridge=br0"};
    options.confirm = absl::Seconds(2);
    options.silence = absl::Seconds(1);
  }

  Report Run() {
    Workflow workflow(options, source, destination, hypervisor, recorder, [this](absl::Duration) { Slept(); });
    running = &workflow;
    return workflow.Run();
  }
  void Slept() {
    if (++sleeps == act_after_sleeps) act();
  }
  // Both ports at the source, none at the destination, and the guest had its network all the time.
  void ExpectUndone(const Report& report, const std::string& cause) {
    EXPECT_FALSE(report.status.ok());
    EXPECT_THAT(std::string(report.status.message()), HasSubstr("vm1: "));
    EXPECT_THAT(std::string(report.status.message()), HasSubstr(cause));
    EXPECT_EQ(report.place, Place::kSource);
    EXPECT_EQ(source.ports.size(), 2u);
    EXPECT_THAT(destination.ports, IsEmpty());
    EXPECT_THAT(report.left, IsEmpty());
    for (const std::string& call : calls) EXPECT_FALSE(absl::StartsWith(call, "a remove")) << call;
  }
  std::vector<std::string> LeftCommands(const Report& report) {
    std::vector<std::string> commands;
    for (const Leftover& left : report.left) commands.push_back(left.command);
    return commands;
  }

  Calls calls;
  FakeSource source{"a", calls};
  FakeDestination destination{"b", calls};
  FakeHypervisor hypervisor{destination, calls};
  Recorder recorder;
  Options options;
  Workflow* running = nullptr;
  int sleeps = 0, act_after_sleeps = -1;
  std::function<void()> act;
};

TEST_F(WorkflowTest, RunsItsStagesInOrder) {
  const Report report = Run();
  EXPECT_EQ(report.status, absl::OkStatus());
  EXPECT_EQ(report.place, Place::kDestination);
  EXPECT_THAT(recorder.stages, ElementsAre("domain", "match", "destination", "contract", "plan", "create", "migrate",
                                           "confirm", "remove"));
  EXPECT_THAT(calls, ElementsAre("b add net0 tap:ep-net0,bridge=br0", "b add net1 tap:ep-net1,bridge=br0", "migrate",
                                 "a remove net0", "a remove net1"));
  EXPECT_EQ(report.account.downtime_ms, 60);
  EXPECT_EQ(recorder.progress, 3);
  ASSERT_EQ(report.ports.size(), 2u);
  EXPECT_EQ(report.ports[1].source, "net1");
  EXPECT_TRUE(report.ports[1].created);
  EXPECT_TRUE(report.ports[1].removed);
  EXPECT_EQ(report.ports[1].state, "running");
  EXPECT_EQ(report.ports[1].frames, 7u);
  EXPECT_THAT(report.left, IsEmpty());
}

TEST_F(WorkflowTest, SocketsAreWhereTheDestinationHasThem) {
  options.socket_dir = "/srv/sockets/";
  Run();
  EXPECT_EQ(hypervisor.sockets["/run/vms/net0.sock"], "/srv/sockets/net0.sock");
  EXPECT_EQ(hypervisor.sockets["/run/vms/net1.sock"], "/srv/sockets/net1.sock");
}

// Each way in which a stage before the guest has gone can fail.
struct Fault {
  const char* name;
  const char* cause;
  std::function<void(FakeSource&, FakeDestination&, FakeHypervisor&)> make;
};
class WorkflowFaultTest : public WorkflowTest, public testing::WithParamInterface<Fault> {};

TEST_P(WorkflowFaultTest, LeavesTheGuestAndItsPorts) {
  GetParam().make(source, destination, hypervisor);
  ExpectUndone(Run(), GetParam().cause);
}

INSTANTIATE_TEST_SUITE_P(
    All, WorkflowFaultTest,
    testing::Values(
        Fault{"Unknown", "no such domain",
              [](auto&, auto&, auto& h) { h.read_error = absl::NotFoundError("no such domain"); }},
        Fault{"Stopped", "does not run", [](auto&, auto&, auto& h) { h.domain.running = false; }},
        Fault{"NoInterface", "no vhostuser interface", [](auto&, auto&, auto& h) { h.domain.nics.clear(); }},
        Fault{"NotShared", "memory is not shared", [](auto&, auto&, auto& h) { h.domain.shared_memory = false; }},
        Fault{"Client", "QEMU is the client", [](auto&, auto&, auto& h) { h.domain.nics[1].server = false; }},
        Fault{"SourceSilent", "nobody listens",
              [](auto& s, auto&, auto&) { s.list_error = absl::UnavailableError("nobody listens"); }},
        Fault{"NoPort", "no port at /a/api.sock has its socket /elsewhere",
              [](auto&, auto&, auto& h) { h.domain.nics[1].socket = "/elsewhere"; }},
        Fault{"NotReady", "the destination's daemon: no keeper",
              [](auto&, auto& d, auto&) { d.ready = absl::UnavailableError("no keeper"); }},
        Fault{"NoLibvirt", "no answer",
              [](auto&, auto&, auto& h) { h.check = absl::DeadlineExceededError("no answer"); }},
        Fault{"NoOffer", "gone", [](auto& s, auto&, auto&) { s.offer_error = absl::NotFoundError("gone"); }},
        Fault{"NoCheck", "refused", [](auto&, auto& d, auto&) { d.check_error = absl::UnavailableError("refused"); }},
        Fault{"OtherContract",
              "port net0 cannot live at /b/api.sock: max_mtu: here 9216, there 1500: too small; raise it",
              [](auto&, auto& d, auto&) {
                d.answer = {.compatible = false,
                            .findings = {{"max_mtu", "9216", "1500", true, "too small", "raise it"},
                                         {"max_ring_size", "256", "512", false, "larger", ""}}};
              }},
        Fault{"FirstPort", "no such bridge", [](auto&, auto& d, auto&) { d.fails_to_add = "net0"; }},
        Fault{"SecondPort", "no such bridge; rolled back: port net0 at /b/api.sock removed",
              [](auto&, auto& d, auto&) { d.fails_to_add = "net1"; }},
        Fault{"PortDespiteError", "died",
              [](auto&, auto& d, auto&) {
                d.fails_to_add = "net1";
                d.add_error = absl::UnavailableError("died");
                d.adds_all_the_same = true;
              }},
        Fault{"Libvirt",
              "QEMU said no; rolled back: port net1 at /b/api.sock removed, port net0 at /b/api.sock removed; "
              "the guest runs on at the source",
              [](auto&, auto&, auto& h) { h.migrate_error = absl::FailedPreconditionError("QEMU said no"); }},
        Fault{"DaemonRestarts", "QEMU said no",
              [](auto&, auto& d, auto& h) {
                h.migrate_error = absl::FailedPreconditionError("QEMU said no");
                d.remove_errors = {absl::UnavailableError("died"), absl::UnavailableError("not yet"), absl::OkStatus()};
              }}),
    [](const auto& test) { return test.param.name; });

TEST_F(WorkflowTest, AFindingThatBreaksNothingIsNoFault) {
  destination.answer.findings = {{"max_ring_size", "256", "512", false, "larger", ""}};
  const Report report = Run();
  EXPECT_EQ(report.status, absl::OkStatus());
  EXPECT_EQ(report.checks.size(), 2u);
}

TEST_F(WorkflowTest, TheDomainIsCleanedUpBeforeItsPorts) {
  hypervisor.migrate_error = absl::FailedPreconditionError("no");
  Run();
  EXPECT_THAT(calls, ElementsAre(HasSubstr("add net0"), HasSubstr("add net1"), "migrate", "clean", "b remove net1",
                                 "b remove net0"));
  EXPECT_THAT(recorder.undone, ElementsAre("create"));
}

TEST_F(WorkflowTest, ARollbackThatFailsSaysWhatIsLeftAndGoesOn) {
  hypervisor.migrate_error = absl::FailedPreconditionError("no");
  hypervisor.clean_error = absl::UnavailableError("b does not answer");
  destination.remove_errors = {absl::FailedPreconditionError("state_dir is full")};  // net1's; net0's goes
  const Report report = Run();
  EXPECT_THAT(LeftCommands(report), ElementsAre("everportctl --api /b/api.sock port remove net1",
                                                "virsh -c 'qemu+tls://b/system' destroy vm1"));
  const std::string text(report.status.message());
  EXPECT_THAT(text, HasSubstr("left behind: port net1 at /b/api.sock, take it away with `everportctl --api /b/api.sock "
                              "port remove net1`"));
  EXPECT_THAT(text, HasSubstr("rolled back: port net0"));
  EXPECT_THAT(text, HasSubstr("not rolled back: b does not answer, state_dir is full"));
  EXPECT_THAT(recorder.not_undone, ElementsAre("migrate", "create"));
  ASSERT_EQ(destination.ports.size(), 1u);
  EXPECT_EQ(destination.ports[0].name, "net1");
}

TEST_F(WorkflowTest, ADaemonThatStaysAwayLeavesItsPorts) {
  hypervisor.migrate_error = absl::FailedPreconditionError("no");
  destination.remove_errors.assign(1000, absl::UnavailableError("nobody listens"));
  const Report report = Run();
  EXPECT_EQ(report.left.size(), 2u);
  EXPECT_GT(sleeps, 10);
  EXPECT_LT(sleeps, 500);
}

class WorkflowCancelTest : public WorkflowTest, public testing::WithParamInterface<const char*> {};

TEST_P(WorkflowCancelTest, RollsBack) {
  recorder.act_at = GetParam();
  recorder.act = [this] { running->Cancel(); };
  const Report report = Run();
  EXPECT_TRUE(absl::IsCancelled(report.status)) << report.status;
  ExpectUndone(report, "cancelled");
}
INSTANTIATE_TEST_SUITE_P(All, WorkflowCancelTest,
                         testing::Values("domain", "match", "destination", "contract", "plan", "create", "migrate"));

class WorkflowTooLateTest : public WorkflowTest, public testing::WithParamInterface<const char*> {};

TEST_P(WorkflowTooLateTest, GoesOn) {
  recorder.act_at = GetParam();
  recorder.act = [this] { running->Cancel(); };
  const Report report = Run();
  EXPECT_EQ(report.status, absl::OkStatus());
  EXPECT_THAT(source.ports, IsEmpty());
  EXPECT_EQ(destination.ports.size(), 2u);
}
INSTANTIATE_TEST_SUITE_P(All, WorkflowTooLateTest, testing::Values("confirm", "remove"));

TEST_F(WorkflowTest, ACancellationThatLibvirtHearsTooLate) {
  options.cancel_after_s = 1;
  hypervisor.too_late = true;
  const Report report = Run();
  EXPECT_EQ(report.status, absl::OkStatus());
  EXPECT_THAT(report.notes, ElementsAre(HasSubstr("too late to cancel")));
  EXPECT_THAT(source.ports, IsEmpty());
}

TEST_F(WorkflowTest, CancelsAfterSoManySecondsOfSending) {
  options.cancel_after_s = 1;
  const Report report = Run();
  EXPECT_TRUE(absl::IsCancelled(report.status));
  EXPECT_EQ(recorder.progress, 2);
  ExpectUndone(report, "cancelled");
}

// It would arrive without network before the daemon is given up.
TEST_F(WorkflowTest, WhileTheDestinationsDaemonIsAwayTheGuestIsHeld) {
  hypervisor.seconds = 14;
  hypervisor.act_at = 10;
  hypervisor.act = [this] {
    destination.ready = absl::UnavailableError("nobody listens");
    hypervisor.act_at = 12;
    hypervisor.act = [this] { destination.ready = absl::OkStatus(); };
  };
  const Report report = Run();
  EXPECT_EQ(report.status, absl::OkStatus());
  EXPECT_THAT(std::vector(hypervisor.paces.end() - 5, hypervisor.paces.end()),
              ElementsAre(Pace::kGoOn, Pace::kHold, Pace::kHold, Pace::kGoOn, Pace::kGoOn));
  EXPECT_THAT(report.notes, ElementsAre(HasSubstr("is slowed down, and given up if it is not back in 10 s"),
                                        HasSubstr("is there again")));
}

TEST_F(WorkflowTest, AGuestThatCannotBeHeldLongEnoughStays) {
  hypervisor.remaining = 5 << 20;
  hypervisor.seconds = 60;
  hypervisor.act_at = 10;
  hypervisor.act = [this] { destination.ready = absl::UnavailableError("nobody listens"); };
  ExpectUndone(Run(), "the destination's daemon has gone meanwhile: nobody listens");
  EXPECT_EQ(recorder.progress, 11);
}

TEST_F(WorkflowTest, ADestinationPortThatIsTakenAwayInTheMiddleEndsIt) {
  hypervisor.seconds = 60;
  hypervisor.act_at = 10;
  hypervisor.act = [this] { destination.ports.pop_back(); };
  const Report report = Run();
  EXPECT_THAT(std::string(report.status.message()), HasSubstr("was taken away meanwhile; leave it there"));
  EXPECT_EQ(report.place, Place::kSource);
  EXPECT_THAT(source.ports, SizeIs(2));
  EXPECT_EQ(recorder.progress, 11);
}

TEST_F(WorkflowTest, ADestinationPortWithoutAnUplinkThatWorksIsNoPlaceForAGuest) {
  destination.ports = {View("net0", "waiting")};
  destination.ports[0].broken = "bridge nowhere does not exist";
  const Report report = Run();
  EXPECT_THAT(std::string(report.status.message()),
              HasSubstr("port net0 at /b/api.sock has no uplink that works: bridge nowhere does not exist; mend it"));
  EXPECT_THAT(recorder.stages, Not(Contains("create")));
}

TEST_F(WorkflowTest, AnUplinkForAPortThatTheDomainHasNotIsRefused) {
  options.uplinks = {"tap:ep-{port}", "net1=tap:x", "net7=tap:y"};
  EXPECT_THAT(std::string(Run().status.message()),
              HasSubstr("--dest-uplink net7=tap:y: the domain has no port net7; it has net0, net1"));
  EXPECT_THAT(calls, IsEmpty());
}

TEST_F(WorkflowTest, ASourcePortThatDoesNotServeTheDomainIsNamed) {
  source.ports[0].state = "waiting";
  source.ports[0].reason = "no QEMU listens";
  EXPECT_THAT(std::string(Run().status.message()),
              HasSubstr("port net0 at /a/api.sock does not serve the domain: no QEMU listens; mend that first"));
}

TEST_F(WorkflowTest, ADestinationDaemonThatGoesInTheMiddleEndsIt) {
  hypervisor.seconds = 60;
  hypervisor.act_at = 10;
  hypervisor.act = [this] { destination.ready = absl::UnavailableError("nobody listens"); };
  const Report report = Run();
  EXPECT_FALSE(absl::IsCancelled(report.status));
  ExpectUndone(report, "the destination's daemon has gone meanwhile: nobody listens");
  EXPECT_LT(recorder.progress, 25);
}

TEST_F(WorkflowTest, ADestinationDaemonThatIsStartedAnewInTheMiddleDoesNot) {
  hypervisor.seconds = 60;
  hypervisor.act_at = 10;
  hypervisor.act = [this] {
    destination.ready = absl::UnavailableError("nobody listens");
    hypervisor.act_at = 14;
    hypervisor.act = [this] { destination.ready = absl::OkStatus(); };
  };
  EXPECT_EQ(Run().status, absl::OkStatus());
}

TEST_F(WorkflowTest, WhatWouldBeLeftIsKnownAtAnyTime) {
  std::vector<std::string> seen;
  recorder.act_at = "migrate";
  recorder.act = [&] {
    for (const Leftover& left : running->Left()) seen.push_back(left.what);
  };
  Run();
  EXPECT_THAT(seen, ElementsAre("port net0 at /b/api.sock", "port net1 at /b/api.sock"));
  seen.clear();
  destination.ports.clear();
  source.ports = {View("net0", "running"), View("net1", "running")};
  recorder.act_at = "confirm";
  Run();
  EXPECT_THAT(seen, ElementsAre("port net0 at /a/api.sock", "port net1 at /a/api.sock"));
}

// What ends meanwhile leaves it to the hypervisors.
TEST_F(WorkflowTest, ThatTheHypervisorsAreAtItIsKnownAtAnyTime) {
  std::vector<bool> seen;
  const auto look = [&] { seen.push_back(running->migrating()); };
  recorder.act = hypervisor.act = look;
  hypervisor.act_at = 1;
  recorder.act_at = "confirm";
  Run();
  EXPECT_THAT(seen, ElementsAre(true, false)) << "on its way, at the destination";
  seen.clear();
  destination.ports.clear();
  source.ports = {View("net0", "running"), View("net1", "running")};
  recorder.act_at = "migrate";
  Run();
  EXPECT_THAT(seen, ElementsAre(false, true)) << "not yet";
}

// --- post-copy

class WorkflowPostcopyTest : public WorkflowTest {
 protected:
  WorkflowPostcopyTest() {
    options.postcopy = true;
    for (PortView& port : source.ports) port.postcopy = true;
  }
};

TEST_F(WorkflowPostcopyTest, PortsAreMadeWithIt) {
  EXPECT_EQ(Run().status, absl::OkStatus());
  ASSERT_EQ(destination.ports.size(), 2u);
  for (const PortView& port : destination.ports) EXPECT_TRUE(port.postcopy) << port.name;
}

TEST_F(WorkflowPostcopyTest, APortThatDoesNotOfferItIsNamedBeforeAnythingMoves) {
  source.ports[1].postcopy = false;
  const Report report = Run();
  ExpectUndone(report,
               "port net1 at /a/api.sock does not offer post-copy; give it postcopy = true (its guest's session begins "
               "anew then), or migrate without --postcopy");
  EXPECT_THAT(std::string(report.status.message()), Not(HasSubstr("net0")));
  EXPECT_THAT(calls, IsEmpty());
}

TEST_F(WorkflowPostcopyTest, ADryRunTellsOfIt) {
  source.ports[0].postcopy = false;
  Workflow workflow(options, source, destination, hypervisor, recorder);
  EXPECT_THAT(std::string(workflow.DryRun().status.message()), HasSubstr("port net0 at /a/api.sock does not offer"));
}

TEST_F(WorkflowPostcopyTest, APortThatStandsThereMustHaveIt) {
  destination.ports.push_back(View("net0", "waiting"));
  const Report report = Run();
  EXPECT_THAT(std::string(report.status.message()),
              HasSubstr("port net0 at /b/api.sock has postcopy false where true is needed; change it there"));
  EXPECT_THAT(calls, IsEmpty());
  destination.ports[0].postcopy = true;
  EXPECT_EQ(Run().status, absl::OkStatus());
}

TEST_F(WorkflowPostcopyTest, ADestinationThatCannotIsNotGoneTo) {
  destination.refuses_postcopy = true;
  ExpectUndone(Run(), "needs the keeper");
  EXPECT_THAT(calls, IsEmpty());
}

TEST_F(WorkflowPostcopyTest, WithoutTheOptionAPortKeepsItWhereTheDestinationCan) {
  options.postcopy = false;
  EXPECT_THAT(Run().notes, IsEmpty());
  for (const PortView& port : destination.ports) EXPECT_TRUE(port.postcopy) << port.name;
}

TEST_F(WorkflowPostcopyTest, WithoutTheOptionADestinationThatCannotIsGoneToAllTheSame) {
  options.postcopy = false;
  destination.refuses_postcopy = true;
  const Report report = Run();
  EXPECT_EQ(report.status, absl::OkStatus());
  EXPECT_THAT(report.notes, ElementsAre("port net0 is made without postcopy: port: postcopy: needs the keeper",
                                        "port net1 is made without postcopy: port: postcopy: needs the keeper"));
  for (const PortView& port : destination.ports) EXPECT_FALSE(port.postcopy) << port.name;
}

TEST_F(WorkflowPostcopyTest, WithoutTheOptionAPortWithoutItStandsThereAsWell) {
  options.postcopy = false;
  destination.ports.push_back(View("net0", "waiting"));
  EXPECT_EQ(Run().status, absl::OkStatus());
}

// --- the guest has gone

TEST_F(WorkflowTest, AGuestThatHasArrivedIsNotRolledBack) {
  hypervisor.arrives_as = "connected";
  const Report report = Run();
  EXPECT_FALSE(report.status.ok());
  EXPECT_THAT(std::string(report.status.message()),
              HasSubstr("the guest runs at the destination, but: port net0 at /b/api.sock does not serve the guest: it "
                        "is connected; see `everportctl --api /b/api.sock port show net0`"));
  EXPECT_EQ(destination.ports.size(), 2u);
  EXPECT_THAT(source.ports, IsEmpty());
  EXPECT_THAT(calls, Not(testing::Contains("clean")));
}

TEST_F(WorkflowTest, AGuestThatArrivedThoughLibvirtSaysOtherwise) {
  hypervisor.migrate_error = absl::FailedPreconditionError("connection lost");
  hypervisor.place = Place::kDestination;
  act_after_sleeps = 1;
  act = [this] { hypervisor.Arrive(); };
  const Report report = Run();
  EXPECT_THAT(std::string(report.status.message()), HasSubstr("runs at the destination, but: connection lost"));
  EXPECT_EQ(report.place, Place::kDestination);
  EXPECT_EQ(report.ports[0].state, "running");
  EXPECT_EQ(destination.ports.size(), 2u);
  EXPECT_THAT(source.ports, IsEmpty());
}

TEST_F(WorkflowTest, NothingIsTouchedWhileNobodyKnowsWhereTheGuestIs) {
  hypervisor.migrate_error = absl::FailedPreconditionError("connection lost");
  hypervisor.place = Place::kUnknown;
  const Report report = Run();
  EXPECT_THAT(std::string(report.status.message()), HasSubstr("not known on which host the guest runs"));
  EXPECT_EQ(destination.ports.size(), 2u);
  EXPECT_EQ(source.ports.size(), 2u);
  EXPECT_THAT(calls, Not(testing::Contains("clean")));
  EXPECT_EQ(report.left.size(), 3u);
}

TEST_F(WorkflowTest, ADestinationDaemonThatComesBackIsWaitedFor) {
  hypervisor.arrives_as = "waiting";
  recorder.act_at = "confirm";
  recorder.act = [this] { destination.list_error = absl::UnavailableError("nobody listens"); };
  act_after_sleeps = 3;
  act = [this] {
    destination.list_error = absl::OkStatus();
    hypervisor.arrives_as = "running";
    hypervisor.Arrive();
  };
  EXPECT_EQ(Run().status, absl::OkStatus());
}

TEST_F(WorkflowTest, AGuestThatIsSilentIsNoted) {
  hypervisor.frames = 0;
  const Report report = Run();
  EXPECT_EQ(report.status, absl::OkStatus());
  EXPECT_THAT(report.notes, ElementsAre(HasSubstr("no frame came or went"), HasSubstr("no frame came or went")));
}

TEST_F(WorkflowTest, ASourcePortThatStaysIsSaid) {
  source.remove_errors = {absl::UnavailableError("nobody listens")};
  const Report report = Run();
  EXPECT_FALSE(report.status.ok());
  EXPECT_THAT(LeftCommands(report), ElementsAre("everportctl --api /a/api.sock port remove net0"));
  EXPECT_TRUE(report.ports[1].removed);
}

TEST_F(WorkflowTest, APortOfTheSourcesFileIsNoted) {
  source.remove_errors = {absl::FailedPreconditionError("port net0: is in the configuration file x; take it out")};
  const Report report = Run();
  EXPECT_EQ(report.status, absl::OkStatus());
  EXPECT_THAT(report.notes, ElementsAre(HasSubstr("it stays at the source: port net0: is in the configuration file")));
  EXPECT_FALSE(report.ports[0].removed);
  EXPECT_THAT(report.left, IsEmpty());
}

// --- ports that stand at the destination

TEST_F(WorkflowTest, APortThatStandsThereIsUsedAndStays) {
  PortView standing = View("net0", "waiting");
  standing.socket = "/its/own.sock";
  standing.frames = 1000;
  destination.ports = {standing};
  hypervisor.migrate_error = absl::FailedPreconditionError("no");
  Report report = Run();
  ASSERT_EQ(destination.ports.size(), 1u);
  EXPECT_EQ(destination.ports[0].name, "net0");
  EXPECT_EQ(hypervisor.sockets["/run/vms/net0.sock"], "/its/own.sock");
  hypervisor.migrate_error = absl::OkStatus();
  report = Run();
  EXPECT_EQ(report.status, absl::OkStatus());
  EXPECT_FALSE(report.ports[0].created);
  EXPECT_EQ(report.ports[0].frames, 7u);  // since the guest came
}

TEST_F(WorkflowTest, APortOfThatSocketIsUsedUnderItsName) {
  PortView standing = View("net0", "waiting");
  standing.name = "vm1-eth0";
  destination.ports = {standing};
  const Report report = Run();
  EXPECT_EQ(report.status, absl::OkStatus());
  EXPECT_EQ(report.ports[0].destination, "vm1-eth0");
}

TEST_F(WorkflowTest, APortThatDoesNotFitIsRefused) {
  const auto refused = [this](const std::string& cause, const std::function<void(PortView&)>& change) {
    PortView standing = View("net0", "waiting");
    change(standing);
    destination.ports = {standing};
    const Report report = Run();
    EXPECT_THAT(std::string(report.status.message()), HasSubstr(cause));
    EXPECT_EQ(destination.ports.size(), 1u);
    EXPECT_EQ(source.ports.size(), 2u);
  };
  refused("port net0 at /b/api.sock has contract old where everport-1 is needed",
          [](PortView& p) { p.contract = "old"; });
  refused("has mac 1 where 52:54:00:00:00:02 is needed", [](PortView& p) { p.mac = "1"; });
  refused("has queue_pairs 2 where 1 is needed", [](PortView& p) { p.queue_pairs = 2; });
  refused("has mtu 9000 where 1500 is needed", [](PortView& p) { p.mtu = 9000; });
  refused("serves a guest already", [](PortView& p) { p.state = "running"; });
}

TEST_F(WorkflowTest, WithoutUplinksPortsMustStandThere) {
  options.uplinks.clear();
  ExpectUndone(Run(), "give --dest-uplink");
  destination.ports = {View("net0", "waiting"), View("net1", "waiting")};
  EXPECT_EQ(Run().status, absl::OkStatus());
}

TEST_F(WorkflowTest, ADryRunChangesNothing) {
  destination.ports = {View("net1", "waiting")};
  Workflow workflow(options, source, destination, hypervisor, recorder);
  const Report report = workflow.DryRun();
  EXPECT_EQ(report.status, absl::OkStatus());
  EXPECT_THAT(calls, IsEmpty());
  EXPECT_THAT(recorder.stages, ElementsAre("domain", "match", "destination", "contract", "plan"));
  EXPECT_THAT(recorder.notes,
              ElementsAre("would make port net0 on /run/vms/net0.sock with tap:ep-net0,bridge=br0; use port net1 on "
                          "/run/vms/net1.sock as it is",
                          HasSubstr("would have libvirt move"), HasSubstr("would wait"), HasSubstr("would remove")));
  ASSERT_EQ(report.ports.size(), 2u);
  EXPECT_TRUE(report.ports[0].created);
  EXPECT_FALSE(report.ports[1].created);
}

TEST_F(WorkflowTest, ADryRunThatFailsSaysWhy) {
  destination.ready = absl::UnavailableError("no keeper");
  Workflow workflow(options, source, destination, hypervisor, recorder);
  EXPECT_EQ(workflow.DryRun().status.message(), "vm1: the destination's daemon: no keeper");
}

TEST(UplinksForTest, FillsInAndChooses) {
  EXPECT_THAT(UplinksFor({"tap:ep-{port},bridge=br{n}"}, "net1", 1), ElementsAre("tap:ep-net1,bridge=br1"));
  const std::vector<std::string> templates = {"net1=vf:0000:3b:02.1", "tap:t{n}", "net1=tap:x"};
  EXPECT_THAT(UplinksFor(templates, "net1", 1), ElementsAre("vf:0000:3b:02.1", "tap:x"));
  EXPECT_THAT(UplinksFor(templates, "net0", 0), ElementsAre("tap:t0"));
  EXPECT_THAT(UplinksFor({"vdev:net_null0,copy=1"}, "net0", 0), ElementsAre("vdev:net_null0,copy=1"));
}

TEST(UplinksForTest, APortsNameStandsBeforeTheKind) {
  EXPECT_EQ(PortOfUplink("net1=vf:0000:3b:02.1"), "net1");
  EXPECT_EQ(PortOfUplink("net1=tap:x,bridge=br0"), "net1");
  EXPECT_EQ(PortOfUplink("tap:x,bridge=br0"), "");
  EXPECT_EQ(PortOfUplink("vdev:net_null0,copy=1"), "");
  EXPECT_EQ(PortOfUplink("net1"), "");
}

}  // namespace
}  // namespace everport::migration
