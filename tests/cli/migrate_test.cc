// everportctl migrate, but for libvirt: what it asks of two daemons, what it shows, and how it is misused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <sstream>

#include "backend/cli/app.h"
#include "backend/cli/migrate_api.h"
#include "backend/cli/migrate_output.h"
#include "tests/cli/fake_daemon.h"
#include "tests/fakes/temp_dir.h"

namespace everport::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using Event = migration::Observer::Event;

class MigrateTest : public testing::Test {
 protected:
  int Run(std::vector<std::string> args) {
    std::vector<const char*> argv = {"everportctl"};
    for (const std::string& arg : args) argv.push_back(arg.c_str());
    return RunCli(static_cast<int>(argv.size()), argv.data(), socket, io);
  }
  std::string Shown() { return std::exchange(out, std::ostringstream()).str(); }

  fakes::TempDir dir;
  const std::string socket = dir / "api.sock";
  fakes::FakeDaemon daemon{socket};
  std::istringstream in;
  std::ostringstream out, err;
  CliIo io{in, out, err};
  Client client{io, false, HttpClient(socket)};
  SourceHost source{client, socket};
  DestinationHost destination{client, client, socket};
};

TEST_F(MigrateTest, PortsAreAsTheDaemonHasThem) {
  const auto ports = source.Ports();
  ASSERT_TRUE(ports.ok()) << ports.status();
  ASSERT_EQ(ports->size(), 2u);
  const migration::PortView& port = ports->front();
  EXPECT_EQ(port.name, "vm1-net0");
  EXPECT_EQ(port.state, "running");
  EXPECT_EQ(port.contract, "everport-1");
  EXPECT_EQ(port.frames, 1734u);
  EXPECT_TRUE(port.has_path);
  EXPECT_TRUE(port.counts);
  EXPECT_FALSE(port.postcopy);
  EXPECT_FALSE(ports->back().has_path);
  daemon.Do([&] { daemon.service().ports[0].config.postcopy = true; });
  EXPECT_TRUE(source.Ports()->front().postcopy);
}

TEST_F(MigrateTest, APortIsMadeWithItsUplinks) {
  migration::PortWish wish;
  wish.port = {.name = "vm9",
               .socket = "/run/vms/vm9.sock",
               .mac = "52:54:00:00:00:09",
               .contract = "everport-1",
               .queue_pairs = 2,
               .mtu = 9000,
               .failback_delay_ms = 7,
               .state = "",
               .reason = "",
               .broken = ""};
  wish.uplinks = {"vf:0000:3b:02.1,bind", "tap:ep-vm9,bridge=br0"};
  const auto added = destination.Add(wish);
  ASSERT_TRUE(added.ok()) << added.status();
  daemon.Do([&] {
    const PortConfig& made = daemon.service().ports.back().config;
    EXPECT_EQ(made.name, "vm9");
    EXPECT_EQ(made.socket, "/run/vms/vm9.sock");
    EXPECT_EQ(made.mac, "52:54:00:00:00:09");
    EXPECT_EQ(made.queue_pairs, 2);
    EXPECT_EQ(made.mtu, 9000);
    EXPECT_EQ(made.failback_delay_ms, 7u);
    ASSERT_EQ(made.uplinks.size(), 2u);
    EXPECT_FALSE(made.postcopy);
    EXPECT_TRUE(made.uplinks[0].bind);
    EXPECT_EQ(made.uplinks[1].bridge, "br0");
  });
  EXPECT_EQ(destination.Remove("vm9"), absl::OkStatus());
  wish.port.queue_pairs = 1;
  wish.port.postcopy = true;
  ASSERT_TRUE(destination.Add(wish).ok());
  daemon.Do([&] { EXPECT_TRUE(daemon.service().ports.back().config.postcopy); });
  EXPECT_EQ(destination.Remove("vm9"), absl::OkStatus());
  EXPECT_TRUE(absl::IsNotFound(destination.Remove("vm9")));
}

TEST_F(MigrateTest, ADaemonThatIsNotReadyIsRefusedWithItsProblems) {
  EXPECT_EQ(destination.Ready(), absl::OkStatus());
  daemon.Do([&] {
    daemon.service().health.ready = false;
    daemon.service().health.problems = {"keeper not connected; systemctl start everport-keeper"};
  });
  EXPECT_THAT(std::string(destination.Ready().message()),
              HasSubstr("api.sock is not ready: keeper not connected; systemctl start everport-keeper"));
}

TEST_F(MigrateTest, OneContractIsOneContract) {
  const auto ports = source.Ports();
  const auto offer = source.OfferOf(ports->front());
  ASSERT_TRUE(offer.ok()) << offer.status();
  const auto answer = destination.Check(*offer);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_TRUE(answer->compatible);
}

TEST_F(MigrateTest, StagesAndProgressAreLines) {
  MigrateOutput output(client);
  output.OnStage("create", Event::kStarted, "make the missing ports");
  output.OnStage("create", Event::kDone, "port vm1 made");
  output.OnStage("migrate", Event::kStarted, "have libvirt move the guest");
  EXPECT_EQ(Shown(), "create      port vm1 made\n");
  output.OnProgress({.elapsed_s = 0.1});
  output.OnProgress({.elapsed_s = 0.2});
  output.OnProgress({.total = 256 << 20, .transferred = 1 << 20, .remaining = 200 << 20, .elapsed_s = 0.3});
  output.OnProgress({.total = 256 << 20, .transferred = 2 << 20, .remaining = 199 << 20, .elapsed_s = 0.4});
  output.OnProgress({.total = 256 << 20,
                     .transferred = 50 << 20,
                     .remaining = 150 << 20,
                     .dirty_bytes_per_s = 3 << 20,
                     .expected_downtime_ms = 300,
                     .elapsed_s = 2.4});
  output.OnStage("migrate", Event::kFailed, "cancelled");
  output.OnStage("create", Event::kRolledBack, "port vm1 removed");
  output.OnStage("create", Event::kRollbackFailed, "no");
  EXPECT_EQ(Shown(),
            "migrate     being set up, 0.1 s\n"
            "migrate     21%, 200 MiB left, 0.3 s, dirty 0.0 MiB/s, 1.0 MiB sent\n"
            "migrate     41%, 150 MiB left, 2.4 s, dirty 3.0 MiB/s, downtime 300 ms, 50 MiB sent\n"
            "migrate     FAILED: cancelled\n"
            "create      rolled back: port vm1 removed\n"
            "create      ROLLBACK FAILED: no\n");
}

TEST_F(MigrateTest, OnATerminalOneLineIsRedrawn) {
  io.out_tty = true;
  MigrateOutput output(client);
  output.OnProgress({.total = 100 << 20, .transferred = 50 << 20, .remaining = 50 << 20, .elapsed_s = 1});
  output.OnProgress({.total = 100 << 20, .transferred = 90 << 20, .remaining = 10 << 20, .elapsed_s = 1.1});
  output.OnStage("migrate", Event::kDone, "");
  EXPECT_EQ(Shown(),
            "\rmigrate     [#####.....] 50%, 50 MiB left, 1.0 s, dirty 0.0 MiB/s, 50 MiB sent\x1b[K"
            "\rmigrate     [#########.] 90%, 10 MiB left, 1.1 s, dirty 0.0 MiB/s, 90 MiB sent\x1b[K"
            "\r\x1b[Kmigrate     done\n");
}

TEST_F(MigrateTest, WhatDoesNotFitIsLeftOut) {
  const migration::Progress progress{.total = uint64_t{200} << 30,
                                     .transferred = uint64_t{150} << 30,
                                     .remaining = uint64_t{100} << 30,
                                     .dirty_bytes_per_s = 300 << 20,
                                     .expected_downtime_ms = 300,
                                     .elapsed_s = 1234.5};
  const std::string least = "[#####.....] 50%, 102400 MiB left, 1234.5 s";
  EXPECT_EQ(ProgressLine(progress, true, 67), least + ", dirty 300 MiB/s");  // of 80 columns
  EXPECT_EQ(ProgressLine(progress, false, 60), least.substr(13) + ", dirty 300 MiB/s");
  EXPECT_EQ(ProgressLine(progress, true, 200), least + ", dirty 300 MiB/s, downtime 300 ms, 153600 MiB sent");
  EXPECT_EQ(ProgressLine(progress, true, 10), least);
}

TEST_F(MigrateTest, AfterTheSendingItSwitchesOver) {
  MigrateOutput output(client);
  output.OnProgress({.elapsed_s = 0.1});
  output.OnProgress({.total = 8 << 20, .transferred = 8 << 20, .remaining = 0, .elapsed_s = 0.3});
  output.OnProgress({.elapsed_s = 0.4});
  output.OnProgress({.elapsed_s = 0.5});
  EXPECT_EQ(Shown(),
            "migrate     being set up, 0.1 s\n"
            "migrate     100%, 0.0 MiB left, 0.3 s, dirty 0.0 MiB/s, 8.0 MiB sent\n"
            "migrate     switching over, 0.4 s\n");
}

TEST_F(MigrateTest, CancellingBeginsALineOfItsOwn) {
  io.out_tty = true;
  MigrateOutput output(client);
  output.OnProgress({.elapsed_s = 1});
  output.OnCancel();
  output.OnProgress({.total = 8 << 20, .transferred = 4 << 20, .remaining = 4 << 20, .elapsed_s = 1.2});
  EXPECT_EQ(Shown(), "\rmigrate     being set up, 1.0 s\x1b[K\n\rmigrate     cancelling, 1.2 s\x1b[K");
  EXPECT_EQ(err.str(), "everportctl: cancelling; a second signal leaves all as it is\n");
}

TEST_F(MigrateTest, WhereTheErrorIsSeenAsWellItsStageIsShort) {
  io.out_tty = true;
  MigrateOutput(client).OnStage("plan", Event::kFailed, "no uplinks");
  EXPECT_EQ(Shown(), "plan        FAILED: no uplinks\n");  // the error goes to a file
  io.err_tty = true;
  MigrateOutput output(client);
  output.OnStage("plan", Event::kFailed, "no uplinks");
  output.OnStage("create", Event::kRollbackFailed, "no");
  EXPECT_EQ(Shown(), "plan        FAILED\ncreate      ROLLBACK FAILED\n");
}

TEST_F(MigrateTest, WithJsonThereIsTheResultAlone) {
  const Client json(io, true, HttpClient(socket));
  MigrateOutput output(json);
  output.OnStage("create", Event::kDone, "port vm1 made");
  output.OnProgress({.elapsed_s = 2.1});
  EXPECT_EQ(Shown(), "");
  migration::Report report;
  report.status = absl::CancelledError("vm1: cancelled");
  report.ports.push_back({.source = "vm1",
                          .destination = "vm1",
                          .source_socket = "/a",
                          .destination_socket = "/b",
                          .created = true,
                          .removed = false,
                          .state = "waiting",
                          .frames = 3});
  report.left.push_back({"port vm1", "everportctl port remove vm1"});
  const boost::json::value said = ReportJson("vm1", report, false);
  EXPECT_EQ(said.at("status"), "cancelled");
  EXPECT_EQ(said.at("guest"), "source");
  EXPECT_EQ(said.at("error"), "vm1: cancelled");
  EXPECT_EQ(said.at("left").at(0).at("command"), "everportctl port remove vm1");
  EXPECT_EQ(said.at("ports").at(0).at("destination_socket"), "/b");
  EXPECT_EQ(ReportJson("vm1", {}, true).at("stages").at(0).at("name"), "domain");
}

TEST_F(MigrateTest, WhereADomainIsThatWasNotSeenIsNotKnown) {
  const Client json(io, true, HttpClient(socket));
  MigrateOutput output(json);
  migration::Report report;
  report.status = absl::NotFoundError("vm1: there is no such domain at qemu:///system");
  EXPECT_EQ(output.PlaceIn(report), migration::Place::kUnknown);
  report.status = absl::FailedPreconditionError("vm1: the domain does not run");
  EXPECT_EQ(output.PlaceIn(report), migration::Place::kSource);
  output.OnStage("domain", Event::kFailed, "no");
  report.status = absl::UnavailableError("vm1: libvirt does not answer");
  EXPECT_EQ(output.PlaceIn(report), migration::Place::kUnknown);
  output.OnStage("domain", Event::kDone, "runs");
  report.status = absl::NotFoundError("vm1: no port has its socket");
  EXPECT_EQ(output.PlaceIn(report), migration::Place::kSource);
  report.place = migration::Place::kDestination;
  EXPECT_EQ(output.PlaceIn(report), migration::Place::kDestination);
}

TEST_F(MigrateTest, TheEndIsASentenceAndATable) {
  migration::Report report;
  report.place = migration::Place::kDestination;
  report.account = {.downtime_ms = 122, .total_ms = 1630, .transferred = 100 << 20};
  report.ports.push_back({.source = "vm1",
                          .destination = "vm1",
                          .source_socket = "/a",
                          .destination_socket = "/b",
                          .created = true,
                          .removed = true,
                          .state = "running",
                          .frames = 48});
  PrintReport(client, "vm1", report, false);
  EXPECT_EQ(Shown(),
            "\nvm1 runs at the destination: away for 122 ms; 1.6 s in all, 100 MiB sent\n"
            "PORT  DESTINATION  SOCKET  MADE  STATE    FRAMES  SOURCE\n"
            "vm1   vm1          /b      now   running      48  removed\n");
}

TEST_F(MigrateTest, AForcedEndSaysThatTheMigrationGoesOnAndWhatToLookAtFirst) {
  const std::vector<migration::Leftover> left = {{"port vm1 at /b", "everportctl --api /b port remove vm1"}};
  EXPECT_EQ(ForcedEnd("vm1", "qemu:///system", true, left),
            "everportctl: vm1: ended by a second signal; the migration may go on by itself, and complete: end it with "
            "`virsh -c qemu:///system domjobabort vm1`, then see with `virsh -c qemu:///system domstate vm1` whether "
            "the guest runs at the source; take away what follows only if it does; left behind: port vm1 at /b, take "
            "it away with `everportctl --api /b port remove vm1`\n");
  EXPECT_EQ(ForcedEnd("vm1", "qemu:///system", false, {}),
            "everportctl: vm1: ended by a second signal; nothing was left behind\n");
}

TEST_F(MigrateTest, WrongUsageIsTwo) {
  EXPECT_EQ(Run({"migrate", "vm1", "--to", "qemu+tls://b/system"}), 2);
  EXPECT_THAT(err.str(), HasSubstr("--dest-api is required"));
  err.str("");
  EXPECT_EQ(Run({"migrate", "vm1", "--to", "x", "--dest-api", socket, "--dest-uplink", "vm1=tapp:x"}), 2);
  EXPECT_THAT(err.str(), HasSubstr("--dest-uplink tapp:x: "));
  EXPECT_EQ(Run({"migrate", "vm1", "--to", "x", "--dest-api", socket, "--cancel-after", "-1"}), 2);
  EXPECT_EQ(Run({"migrate", "vm1", "--to", "x", "--dest-api", socket, "--timeout", "0"}), 2);
}

TEST_F(MigrateTest, NumbersHaveARange) {
  const auto refusal = [this](const std::string& option, const std::string& value) {
    err.str("");
    EXPECT_EQ(Run({"migrate", "vm1", "--to", "x", "--dest-api", socket, option, value}), 2) << value;
    return err.str();
  };
  for (const std::string value : {"-3", "0", "99999999999999999999", "8796093022208", "1.5", "abc"}) {
    EXPECT_THAT(refusal("--bandwidth", value),
                HasSubstr("--bandwidth: \"" + value + "\" is not a number of MiB/s from 1 to 8796093022207; see"));
  }
  for (const std::string value : {"-1", "86401", "nan", "inf", "abc"}) {
    EXPECT_THAT(refusal("--cancel-after", value),
                HasSubstr("--cancel-after: \"" + value + "\" is not a number of seconds from 0 to 86400; see"));
  }
  // What is in range is not what is complained of.
  err.str("");
  EXPECT_EQ(Run({"migrate", "vm1", "--to", "x", "--dest-api", "", "--bandwidth", "8796093022207"}), 2);
  EXPECT_THAT(err.str(), Not(HasSubstr("from 1 to")));
  EXPECT_EQ(Run({"migrate", "vm1", "--to", "x", "--dest-api", "", "--cancel-after", "0.5"}), 2);
  EXPECT_THAT(err.str(), Not(HasSubstr("from 0 to")));
}

TEST_F(MigrateTest, TheDestinationsDaemonIsNamedByItsOwnOption) {
  for (const std::string where : {"10.77.0.12:9440", "[::1]:9440", "b.example:9440"}) {
    err.str("");
    EXPECT_EQ(Run({"migrate", "vm1", "--to", "x", "--dest-api", where}), 2);
    EXPECT_EQ(err.str(),
              "everportctl: --dest-api " + where + ": that is no socket's path; write https://" + where + "\n");
  }
  const auto nope = HttpClient::Open(dir / "nope:1", {}, HttpClient::kTimeout, "--dest-api");
  ASSERT_TRUE(nope.ok()) << nope.status();
  const Client nobody(io, false, *nope);
  EXPECT_THAT(std::string(DestinationHost(nobody, nobody, dir / "nope:1").Ready().message()),
              HasSubstr("nope:1: No such file or directory; start everportd, or name its API socket with --dest-api"));
}

TEST_F(MigrateTest, WhatIsInBracesIsAPlaceholderThatThereIs) {
  for (const std::string braces : {"{prt}", "{", "}", "{}", "{PORT}", "{port"}) {
    err.str("");
    EXPECT_EQ(Run({"migrate", "vm1", "--to", "x", "--dest-api", socket, "--dry-run", "--dest-uplink",
                   "vm1=tap:ep-{port}-{n}-" + braces}),
              2);
    EXPECT_THAT(err.str(), HasSubstr("vm1=tap:ep-{port}-{n}-" + braces + ": " + braces +
                                     " is no placeholder; there are {port}, the port's name, and {n}, its number"));
  }
}

}  // namespace
}  // namespace everport::cli
