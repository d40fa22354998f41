// everportctl against a real API socket, in one process: arguments in, text and exit status out.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <sstream>
#include <thread>
#include <utility>

#include "backend/cli/app.h"
#include "migration/contract_document.h"
#include "tests/cli/fake_daemon.h"
#include "tests/fakes/temp_dir.h"

namespace everport::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Result {
  int status = -1;
  std::string out, err;
};

class CliTest : public testing::Test {
 protected:
  Result Run(std::vector<std::string> args, const std::string& input = "") {
    std::vector<const char*> argv = {"everportctl"};
    for (const std::string& arg : args) argv.push_back(arg.c_str());
    std::istringstream in(input);
    std::ostringstream out, err;
    CliIo io{in, out, err};
    const int status = RunCli(static_cast<int>(argv.size()), argv.data(), socket, io);
    return {status, out.str(), err.str()};
  }
  boost::json::value Json(std::vector<std::string> args) {
    args.insert(args.begin(), "--json");
    const Result result = Run(args);
    EXPECT_EQ(result.status, 0) << result.err;
    return boost::json::parse(result.out);
  }

  fakes::TempDir dir;
  const std::string socket = dir / "api.sock";
  fakes::FakeDaemon daemon{socket};
};

TEST_F(CliTest, PortsIsATable) {
  const Result result = Run({"ports"});
  EXPECT_EQ(result.status, 0);
  EXPECT_EQ(result.err, "");
  EXPECT_EQ(
      result.out,
      "NAME      STATE    PATH          MODE   RX-PACKETS  TX-PACKETS  DROPS  NODE  POLLER  ORIGIN              NOTE\n"
      "vm1-net0  running  1 tap:ep-vm1  relay        1234         500     15     0       1  libvirt domain vm1  "
      "fallback: vf 0000:3b:02.1 does not work: no such device\n"
      "vm2       waiting  -             -               0           0      0     -       -  file                no QEMU listens yet\n");
}

TEST_F(CliTest, PortsSayWhatTheyWaitFor) {
  daemon.Do([&] {
    daemon.service().ports[0].state = "connected";
    daemon.service().ports[1].reason = "";
    daemon.service().ports[1].uplinks[0].error = "a long story, and no reason for a guest that does not run";
  });
  const std::string out = Run({"ports"}).out;
  EXPECT_THAT(out, HasSubstr("  the guest's driver has not started; fallback: vf 0000:3b:02.1 does not work"));
  EXPECT_THAT(out, HasSubstr("  no QEMU listens on /run/vms/vm2.sock\n"));
}

TEST_F(CliTest, PortsSayWhatArrivesByPostcopy) {
  const auto note = [&](const std::string& phase, const std::string& reason = "") {
    daemon.Do([&] {
      PortView& port = daemon.service().ports[0];
      port.config.postcopy = true;
      port.postcopy = {.phase = phase, .seconds = 3.25, .completed = 2};
      port.reason = reason;
      port.path.reason = "first choice";
    });
    const std::string out = Run({"ports"}).out;
    const size_t at = out.find("1  ", out.find("vm1-net0"));
    return out.substr(at + 3, out.find('\n', at) - at - 3);
  };
  EXPECT_THAT(note("listening"), testing::EndsWith("  arrives by post-copy, for 3.2 s now"));
  EXPECT_THAT(note("listening", "post-copy under way, and the daemon that served it has gone"),
              testing::EndsWith("  post-copy under way, and the daemon that served it has gone"));
  EXPECT_THAT(note("advised"), testing::EndsWith("  -"));
  EXPECT_THAT(note("none"), testing::EndsWith("  -"));
  const auto port = Json({"port", "show", "vm1-net0"});
  EXPECT_EQ(port.at("postcopy_progress").at("phase"), "none");
  EXPECT_EQ(port.at("postcopy_progress").at("completed").to_number<int>(), 2);
  EXPECT_FALSE(Json({"port", "show", "vm2"}).as_object().contains("postcopy_progress"));
}

TEST_F(CliTest, PortsSayWhyAPathIsNotTheFirstChoiceInShort) {
  const auto note = [&](const std::string& reason) {
    daemon.Do([&] { daemon.service().ports[0].path.reason = reason; });
    const std::string out = Run({"ports"}).out;
    const size_t at = out.find("1  ", out.find("vm1-net0"));
    return out.substr(at + 3, out.find('\n', at) - at - 3);
  };
  EXPECT_THAT(note("first choice"), testing::EndsWith("  -"));
  EXPECT_THAT(note("chosen by hand"), testing::EndsWith("  chosen by hand"));
  EXPECT_THAT(note("chosen by hand: uplink 0, vf 0000:3b:02.1, which does not work: gone; plug it in"),
              testing::EndsWith("  chosen by hand: uplink 0, vf 0000:3b:02.1, which does not work: gone"));
  const std::string cut = note("fallback: " + std::string(200, 'x'));
  EXPECT_THAT(cut, testing::EndsWith("  fallback: " + std::string(67, 'x') + "..."));
}

TEST_F(CliTest, NoPortsIsSaid) {
  daemon.Do([&] { daemon.service().ports.clear(); });
  const Result result = Run({"ports"});
  EXPECT_EQ(result.status, 0);
  EXPECT_THAT(result.err, StartsWith("there are no ports; "));
  EXPECT_EQ(Run({"--json", "ports"}).out, "[]\n");
}

TEST_F(CliTest, PortsAsJsonIsAListOfObjects) {
  const auto ports = Json({"ports"}).as_array();
  ASSERT_EQ(ports.size(), 2u);
  EXPECT_EQ(ports[0].at("name"), "vm1-net0");
  EXPECT_EQ(ports[0].at("path").at("mode"), "relay");
}

TEST_F(CliTest, StatsHasDropsByCause) {
  EXPECT_EQ(Run({"stats"}).out,
            "NAME      RX-PACKETS  RX-BYTES  TX-PACKETS  TX-BYTES  DROPS  RING-FULL  UPLINK-FULL  MALFORMED  NO-PATH  "
            "REFUSED\n"
            "vm1-net0        1234   1.23 MB         500   64.0 kB     15          1            2          3        4   "
            "     5\n"
            "vm2                0       0 B           0       0 B      0          0            0          0        0   "
            "     0\n");
}

TEST_F(CliTest, StatsOfOnePortIsByQueue) {
  EXPECT_EQ(Run({"stats", "vm1-net0"}).out,
            "              RX     TX\n"
            "packets     1234    500\n"
            "bytes    1234567  64000\n"
            "\n"
            "PAIR  RX-PACKETS  TX-PACKETS  RX  TX\n"
            "   0        1000         400  on  on\n"
            "   1         234         100  on  off\n"
            "\n"
            "DROPPED BECAUSE            PACKETS\n"
            "guest's receive ring full        1\n"
            "uplink full                      2\n"
            "malformed                        3\n"
            "no path                          4\n"
            "refused by the uplink            5\n");
}

TEST_F(CliTest, PortShowTellsAll) {
  EXPECT_EQ(Run({"port", "show", "vm1-net0"}).out,
            "port         vm1-net0\n"
            "state        running\n"
            "path         1 tap:ep-vm1 (relay), fallback: vf 0000:3b:02.1 does not work: no such device; plug it in, "
            "or name another\n"
            "origin       libvirt domain vm1\n"
            "socket       /run/vms/vm1-net0.sock\n"
            "mac          52:54:00:00:00:02\n"
            "mtu          1500\n"
            "queue pairs  2\n"
            "contract     everport-1\n"
            "features     0x100008000, packed rings\n"
            "numa node    0\n"
            "poller       1\n"
            "sessions     2, taken over 3\n"
            "rx           1234 packets, 1234567 bytes\n"
            "tx           500 packets, 64000 bytes\n"
            "drops        15\n"
            "\n"
            "UPLINK  KIND  DEVICE        BRIDGE  STATE   NOTE\n"
            "     0  vf    0000:3b:02.1  -       failed  no such device\n"
            "     1  tap   ep-vm1        br0     active  -\n");
}

TEST_F(CliTest, PortShowTellsOfAnUplinkThatHasYetToProveItself) {
  daemon.Do([&] {
    daemon.service().ports[0].uplinks[0].error = "";
    daemon.service().ports[0].uplinks[0].note = "works again, trusted in 3.2 s";
  });
  EXPECT_THAT(Run({"port", "show", "vm1-net0"}).out, HasSubstr("failed  works again, trusted in 3.2 s\n"));
}

TEST_F(CliTest, PortIsAddedFromFlags) {
  const Result result = Run({"port", "add", "vm9", "--socket", "/run/vms/vm9.sock", "--uplink",
                             "vdev:net_null0,size=64", "--uplink", "tap:ep-vm9,bridge=br1", "--mac",
                             "52:54:00:00:00:09", "--queue-pairs", "4", "--mtu", "9000", "--failback-delay-ms", "250"});
  EXPECT_EQ(result.err, "");
  EXPECT_EQ(result.out, "port vm9 added: waiting, no path yet\n");
  daemon.Do([&] {
    ASSERT_EQ(daemon.service().ports.size(), 3u);
    const PortConfig& port = daemon.service().ports[2].config;
    EXPECT_EQ(port.socket, "/run/vms/vm9.sock");
    EXPECT_EQ(port.mac, "52:54:00:00:00:09");
    EXPECT_EQ(port.queue_pairs, 4);
    EXPECT_EQ(port.mtu, 9000);
    EXPECT_EQ(port.failback_delay_ms, 250u);
    EXPECT_FALSE(port.postcopy);
    const std::vector<UplinkConfig> uplinks = {{UplinkKind::kVdev, "net_null0,size=64", ""},
                                               {UplinkKind::kTap, "ep-vm9", "br1"}};
    EXPECT_EQ(port.uplinks, uplinks);
  });
}

TEST_F(CliTest, APortWhoseGuestMayArriveByPostcopyIsAdded) {
  EXPECT_EQ(Run({"port", "add", "vm9", "--socket", "/s.sock", "--uplink", "vdev:net_null0", "--postcopy"}).err, "");
  daemon.Do([&] { EXPECT_TRUE(daemon.service().ports.at(2).config.postcopy); });
}

TEST_F(CliTest, PortIsAddedFromAFileOrStdin) {
  const std::string text = R"({"name":"vm9","socket":"/s.sock","uplink":[{"kind":"tap","device":"t9"}]})";
  EXPECT_EQ(Run({"port", "add", "--file", "-"}, text).out, "port vm9 added: waiting, no path yet\n");
  const Result again = Run({"port", "add", "--file", dir.Write("port.json", text)});
  EXPECT_EQ(again.status, 1);
  EXPECT_EQ(again.err, "everportctl: port vm9: there is one of this name; choose another, or remove it first\n");
  EXPECT_EQ(Run({"port", "add", "--file", dir / "none"}).status, 1);
}

TEST_F(CliTest, PortAddRefusesBadValuesByItself) {
  struct {
    std::vector<std::string> args;
    const char* error;
  } cases[] = {
      {{"port", "add", "vm9", "--socket", "/s", "--uplink", "tap"}, "--uplink tap: not KIND:DEVICE"},
      {{"port", "add", "vm9", "--socket", "/s", "--uplink", "tapp:x"}, "--uplink tapp:x: "},
      {{"port", "add", "vm9", "--socket", "/s", "--uplink", "tap:x,brigde=br0"}, "unknown option \"brigde=br0\""},
      {{"port", "add", "vm9", "--socket", "/s", "--uplink", "tap:x,bridge="}, "unknown option \"bridge=\""},
      {{"port", "add", "vm9", "--socket", "/s", "--uplink", "vf:0000:3b:02.1,bidn"}, "a vf takes bind alone"},
      {{"port", "add"}, "port add: NAME: no name is given; "},
      {{"port", "add", "vm9", "--uplink", "tap:x"}, "port vm9: --socket: no socket is given; "},
      {{"port", "add", "vm9", "--socket", "/s"}, "port vm9: --uplink: there is none; give KIND:DEVICE"},
      {{"port", "add", "vm9", "--socket", "/s", "--uplink", "tap:x", "--uplink", "tap:a:b"},
       "port vm9: --uplink tap:a:b: \"a:b\" is not a network interface name; "},
      {{"port", "add", "vm9", "--socket", "/s", "--uplink", "tap:x", "--mtu", "99999"},
       "port vm9: --mtu: 99999 is out of range; use 68 to 9216"},
      {{"port", "add", "vm9", "--socket", "/s", "--uplink", "tap:x", "--mtu", "67"},
       "port vm9: --mtu: 67 is out of range; use 68 to 9216"},
      {{"port", "add", "vm9", "--socket", "/s", "--uplink", "tap:x", "--queue-pairs", "17"},
       "port vm9: --queue-pairs: 17 is out of range; use 1 to 16"},
      {{"port", "show", "a/b"}, "port a/b: not a port's name"},
  };
  for (const auto& bad : cases) {
    const Result result = Run(bad.args);
    EXPECT_EQ(result.status, 2) << bad.error;
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, HasSubstr(bad.error));
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
  }
}

TEST_F(CliTest, ASavedPortThatIsRemovedAndLeavesAnotherOfItsNameIsSaidToDoSo) {
  const auto leave_out = [&] { daemon.Do([&] { daemon.service().left_out = {"vm2"}; }); };
  leave_out();
  EXPECT_EQ(Run({"port", "remove", "vm2"}).out,
            "port vm2: what was saved of it and left out is removed; the port of that name that there is stands\n");
  leave_out();
  EXPECT_EQ(boost::json::serialize(Json({"port", "remove", "vm2"})), R"({"removed":"vm2","stands":true})");
  EXPECT_EQ(Run({"port", "remove", "vm2"}).out, "port vm2 removed\n");
}

TEST_F(CliTest, PortIsRemoved) {
  EXPECT_EQ(Run({"port", "remove", "vm2"}).out, "port vm2 removed\n");
  const Result again = Run({"port", "remove", "vm2"});
  EXPECT_EQ(again.status, 1);
  EXPECT_EQ(again.err,
            "everportctl: port vm2: there is none of this name; `everportctl ports` lists those there are\n");
}

TEST_F(CliTest, PathSwitches) {
  EXPECT_EQ(Run({"path", "vm1-net0", "0"}).out, "port vm1-net0: path 0 vf:0000:3b:02.1 (relay)\n");
  for (const char* index : {"2", "255", "256", "70000"}) {  // refused alike, by the one that knows
    const Result result = Run({"path", "vm1-net0", index});
    EXPECT_EQ(result.status, 1);
    EXPECT_EQ(result.err, std::string("everportctl: port vm1-net0: no uplink ") + index + "\n");
  }
}

TEST_F(CliTest, EventsEndWhenTheyShallNotFollow) {
  EXPECT_EQ(Run({"events", "--no-follow"}).out,
            "2023-11-14T22:13:20.000+00:00  everportd     config    2 ports\n"
            "2023-11-14T22:13:20.000+00:00  vm1-net0      path      0 (vf) failed; 1 (tap) running\n");
  EXPECT_THAT(Run({"--json", "events", "--no-follow"}).out, StartsWith(R"({"id":1,"time_unix_us":1700000000000000,)"));
}

// Passes lines on as they are written; fails from the third on, as a closed pipe does.
class TwoLines : public std::stringbuf {
 public:
  std::promise<void> first;

 private:
  int sync() override {
    if (++lines_ == 1) first.set_value();
    return lines_ < 3 ? 0 : -1;
  }
  int lines_ = 0;
};

TEST_F(CliTest, EventsFollowUntilNobodyReadsThem) {
  TwoLines buffer;
  std::ostream out(&buffer);
  std::istringstream in;
  std::ostringstream err;
  std::thread reader([&] {
    CliIo io{in, out, err};
    const char* const argv[] = {"everportctl", "events"};
    EXPECT_EQ(RunCli(2, argv, socket, io), 0);
  });
  buffer.first.get_future().wait();
  daemon.Do([&] { daemon.service().Emit("vm2", "state", "connected"); });
  reader.join();
  EXPECT_THAT(buffer.str(), HasSubstr("vm2           state     connected\n"));
}

// Once something is said on it, lets the daemon answer.
class Impatient : public std::stringbuf {
 public:
  explicit Impatient(std::function<void()> act) : act_(std::move(act)) {}

 private:
  int sync() override {
    if (act_) std::exchange(act_, nullptr)();
    return 0;
  }
  std::function<void()> act_;
};

TEST_F(CliTest, LongWaitIsSaidOnStderr) {
  daemon.Do([&] { daemon.service().hold = true; });
  Impatient said([&] { daemon.Do([&] { daemon.service().held.at(0)(); }); });
  std::istringstream in;
  std::ostringstream out;
  std::ostream err(&said);
  CliIo io{in, out, err};
  const char* const argv[] = {"everportctl", "port", "remove", "vm2"};
  EXPECT_EQ(RunCli(4, argv, socket, io), 0);
  EXPECT_EQ(said.str(), "waiting for everportd: 2 s\n");
  EXPECT_EQ(out.str(), "port vm2 removed\n");
}

TEST_F(CliTest, DaemonWithTooManyClientsSaysSo) {
  const fakes::FakeDaemon full(dir / "full.sock", {.connections = 0});
  const Result result = Run({"--api", dir / "full.sock", "ports"});
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(result.err, "everportctl: api: 0 connections are open already; try again later\n");
}

TEST_F(CliTest, PlacementAndContract) {
  EXPECT_EQ(Run({"placement"}).out,
            "PORT      GUEST-NODE  POOL-NODE  POLLER  POLLER-NODE  NOTE\n"
            "vm1-net0           0          0       1            0  local\n"
            "vm2                -          -       -            -  no guest\n");
  EXPECT_EQ(Run({"contract", "show"}).out,
            "NAME         MTU  QUEUE-PAIRS  RING-SIZE  RING-LAYOUTS   ANNOUNCE     FEATURES\n"
            "everport-1  9216           16      32768  split, packed  guest, rarp        20\n"
            "minimal-1   1500            1      32768  split          rarp                5\n");
  EXPECT_EQ(Run({"contract", "show", "minimal-1"}).out,
            "contract minimal-1\n"
            "\n"
            "FIELD                           OFFERED\n"
            "max_mtu                         1500\n"
            "max_queue_pairs                 1\n"
            "max_ring_size                   32768\n"
            "ring_layouts                    split\n"
            "announce                        rarp\n"
            "VIRTIO_NET_F_MRG_RXBUF          offered\n"
            "VHOST_F_LOG_ALL                 offered\n"
            "VIRTIO_F_ANY_LAYOUT             offered\n"
            "VHOST_USER_F_PROTOCOL_FEATURES  offered\n"
            "VIRTIO_F_VERSION_1              offered\n"
            "protocol MQ                     offered\n"
            "protocol LOG_SHMFD              offered\n"
            "protocol RARP                   offered\n"
            "protocol REPLY_ACK              offered\n"
            "protocol MTU                    offered\n"
            "protocol BACKEND_REQ            offered\n"
            "protocol RESET_DEVICE           offered\n"
            "protocol STATUS                 offered\n");
  EXPECT_EQ(*ContractFromJson(Json({"contract", "show", "minimal-1"}), ""), *FindContract("minimal-1"));
  const Result neither = Run({"contract", "show", "nope"});
  EXPECT_EQ(neither.status, 1);
  EXPECT_THAT(neither.err, HasSubstr("contract show nope: there is neither a contract nor a port of that name; "));
}

TEST_F(CliTest, ContractOfAPortBesideWhatItsGuestHas) {
  daemon.Do([&] { daemon.service().ports[0].ring_size = 256; });
  const std::string out = Run({"contract", "show", "vm1-net0"}).out;
  EXPECT_THAT(out, StartsWith("port vm1-net0, contract everport-1\n"
                              "\n"
                              "FIELD                           OFFERED        GUEST\n"
                              "max_mtu                         9216           1500\n"
                              "max_queue_pairs                 16             2\n"
                              "max_ring_size                   32768          256\n"
                              "ring_layouts                    split, packed  split\n"
                              "announce                        guest, rarp    -\n"
                              "VIRTIO_NET_F_CSUM               offered        -\n"));
  EXPECT_THAT(out, HasSubstr("\nVIRTIO_NET_F_MRG_RXBUF          offered        negotiated\n"));
  EXPECT_EQ(*ContractFromJson(Json({"contract", "show", "vm1-net0"}), ""), *FindContract("everport-1"));
  EXPECT_THAT(Run({"contract", "show", "vm2"}).out,
              StartsWith("port vm2, contract everport-1; its guest's driver has not started, and may take all"));
}

TEST_F(CliTest, ContractOfAPortWhoseGuestMayArriveByPostcopy) {
  EXPECT_THAT(Run({"contract", "show", "vm1-net0"}).out, testing::Not(HasSubstr("PAGEFAULT")));
  daemon.Do([&] { daemon.service().ports[0].config.postcopy = true; });
  EXPECT_THAT(Run({"contract", "show", "vm1-net0"}).out, HasSubstr("\nprotocol PAGEFAULT "));
  fakes::FakeDaemon other(dir / "other.sock");
  const std::string same = dir.Write("same.json", Run({"--json", "contract", "show", "everport-1"}).out);
  for (const std::string& against : {same, dir / "other.sock"}) {
    const Result result = Run({"contract", "check", "vm1-net0", "--against", against});
    EXPECT_EQ(result.status, 0) << result.err;
    EXPECT_THAT(result.out, HasSubstr("cannot get there by post-copy"));
    EXPECT_THAT(result.out, HasSubstr(against + ": compatible\n"));
  }
}

TEST_F(CliTest, ContractCheckAgainstAFile) {
  const std::string same = dir.Write("same.json", Run({"--json", "contract", "show", "everport-1"}).out);
  const Result fits = Run({"contract", "check", "vm1-net0", "--against", same});
  EXPECT_EQ(fits.status, 0) << fits.err;
  EXPECT_EQ(fits.out, "port vm1-net0, contract everport-1, against " + same + ": compatible, nothing differs\n");
  FeatureContract other = *FindContract("everport-1");
  other.name = "other-1";
  other.max_mtu = 2000;
  other.features &= ~(uint64_t{1} << kNetMrgRxbuf);
  const std::string file = dir.Write("other.json", boost::json::serialize(ContractToJson(other)));
  const Result breaks = Run({"contract", "check", "vm1-net0", "--against", file});
  EXPECT_EQ(breaks.status, 1);
  EXPECT_EQ(
      breaks.out,
      "FIELD                            HERE        THERE        VERDICT\n"
      "name                             everport-1  other-1      differs: another contract, so it is compared "
      "field by field\n"
      "features.VIRTIO_NET_F_MRG_RXBUF  negotiated  not offered  breaks: the guest uses it, so QEMU there refuses "
      "the guest's state as it arrives, and the migration fails; offer VIRTIO_NET_F_MRG_RXBUF there, or use a "
      "contract that both hosts have\n"
      "max_mtu                          9216        2000         differs: the port's MTU is 1500, which both "
      "cover\n"
      "\n"
      "port vm1-net0, contract everport-1, against " +
          file + ": not compatible, 1 thing breaks\n");
  EXPECT_THAT(breaks.err, StartsWith("everportctl: port vm1-net0: its guest would lose something at "));
  const Result json = Run({"--json", "contract", "check", "vm1-net0", "--against", file});
  EXPECT_EQ(json.status, 1);
  EXPECT_EQ(boost::json::parse(json.out).at("compatible"), false);
  EXPECT_EQ(boost::json::parse(json.out).at("findings").as_array().size(), 3u);
}

TEST_F(CliTest, ContractCheckAgainstAnotherDaemon) {
  fakes::FakeDaemon other(dir / "other.sock");
  const Result fits = Run({"contract", "check", "vm1-net0", "--against", dir / "other.sock"});
  EXPECT_EQ(fits.status, 0) << fits.err;
  FeatureContract mine = *FindContract("everport-1");
  mine.name = "mine-1";
  daemon.Do([&] {
    daemon.service().known_contracts = ContractSet({mine});
    daemon.service().ports[0].config.contract = "mine-1";
  });
  const Result unknown = Run({"contract", "check", "vm1-net0", "--against", dir / "other.sock"});
  EXPECT_EQ(unknown.status, 1);
  EXPECT_THAT(unknown.out,
              HasSubstr("name   mine-1  unknown  breaks: no port of contract mine-1 can be made there: the "
                        "contracts known there are everport-1, minimal-1; add the [[contract]] mine-1"));
  mine.features &= ~(uint64_t{1} << kInOrder);
  other.Do([&] { other.service().known_contracts = ContractSet({mine}); });
  const Result differs = Run({"contract", "check", "vm1-net0", "--against", dir / "other.sock"});
  EXPECT_EQ(differs.status, 1);
  EXPECT_THAT(differs.out, HasSubstr("breaks: contract mine-1 differs between the hosts"));
}

TEST_F(CliTest, ContractCheckThatCannotBeMadeSaysWhy) {
  const auto error = [&](const std::string& port, const std::string& against) {
    const Result result = Run({"contract", "check", port, "--against", against});
    EXPECT_EQ(result.status, 1);
    EXPECT_EQ(result.out, "");
    return result.err;
  };
  const std::string newer = dir.Write("newer.json", R"({"format":2,"name":"everport-2"})");
  EXPECT_EQ(error("vm1-net0", newer), "everportctl: --against " + newer +
                                          ": format: the document has format 2 and this everport reads format 1; "
                                          "upgrade everport on this host\n");
  EXPECT_THAT(error("vm1-net0", dir / "none.json"), HasSubstr("none.json: cannot be read; name a contract document"));
  EXPECT_THAT(error("vm1-net0", dir.Write("large.json", std::string(100'000, ' '))), HasSubstr("more than 65536"));
  const std::string good = dir.Write("good.json", Run({"--json", "contract", "show", "everport-1"}).out);
  EXPECT_THAT(error("vm7", good), HasSubstr("port vm7: "));
}

TEST_F(CliTest, VersionIsOfBoth) {
  EXPECT_EQ(Run({"version"}).out, "everportctl " EVERPORT_VERSION "\neverportd   " EVERPORT_VERSION " (a)\n");
  EXPECT_EQ(Json({"version"}).at("daemon"), "a");
  const Result alone = Run({"--api", dir / "none.sock", "version"});
  EXPECT_EQ(alone.status, 0);
  EXPECT_THAT(alone.out, HasSubstr("everportd   not reachable: "));
}

TEST_F(CliTest, TopPrintsPlainTablesWhereThereIsNoTerminal) {
  const Result result = Run({"top", "--count", "2", "--interval", "0.01"});
  EXPECT_EQ(result.status, 0);
  EXPECT_EQ(result.out,
            "2 ports, rx 0 pps 0 bit/s, tx 0 pps 0 bit/s, drops 0 /s\n"
            "\n"
            "NAME      STATE    PATH             RX       RX     TX       TX  DROPS\n"
            "vm1-net0  running  1 tap:ep-vm1  0 pps  0 bit/s  0 pps  0 bit/s   0 /s\n"
            "vm2       waiting  -             0 pps  0 bit/s  0 pps  0 bit/s   0 /s\n"
            "\n"
            "2 ports, rx 0 pps 0 bit/s, tx 0 pps 0 bit/s, drops 0 /s\n"
            "\n"
            "NAME      STATE    PATH             RX       RX     TX       TX  DROPS\n"
            "vm1-net0  running  1 tap:ep-vm1  0 pps  0 bit/s  0 pps  0 bit/s   0 /s\n"
            "vm2       waiting  -             0 pps  0 bit/s  0 pps  0 bit/s   0 /s\n");
  EXPECT_EQ(Json({"top", "--interval", "0.01"}).at(0).at("rx_pps"), 0.0);
  EXPECT_EQ(Run({"top", "--interval", "0"}).status, 2);
}

TEST_F(CliTest, LibvirtXmlOfAPort) {
  EXPECT_THAT(Run({"libvirt-xml", "vm1-net0"}).out, HasSubstr("path='/run/vms/vm1-net0.sock' mode='server'"));
  EXPECT_THAT(std::string(Json({"libvirt-xml", "vm1-net0"}).at("xml").as_string()), HasSubstr("memfd"));
}

TEST_F(CliTest, DoctorFailsWithFindings) {
  const Result result = Run({"doctor", "--root", dir.path()});
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.out, StartsWith("LEVEL  OBJECT"));
  EXPECT_THAT(result.out, HasSubstr("\nOK     keeper                  connected\n"));
  EXPECT_THAT(result.out, HasSubstr("\nFAIL   port vm1-net0           socket folder /run/vms is missing; "));
  EXPECT_THAT(result.err, HasSubstr("everportctl: doctor: "));
  const Result json = Run({"--json", "doctor", "--root", dir.path()});
  EXPECT_EQ(boost::json::parse(json.out).at(0).at("level"), "OK");
}

// Without --config it is the running daemon's file that tells what memory it wants.
TEST_F(CliTest, DoctorKnowsWhatMemoryTheDaemonWasToldToUse) {
  const auto write = [&](const std::string& path, const std::string& text) {
    std::filesystem::create_directories((dir.path() + path).substr(0, (dir.path() + path).rfind('/')));
    std::ofstream(dir.path() + path) << text;
  };
  const std::string args("everportd\0--config\0/etc/x.toml\0", 31);
  write("/proc/7/cmdline", args);
  write("/etc/x.toml", "[daemon]\nmemory = \"ordinary\"\nrun_dir = \"" + dir.path() + "\"\n");
  EXPECT_THAT(Run({"doctor", "--root", dir.path()}).out,
              HasSubstr("OK     hugepages               not used: memory = "));
  write("/etc/x.toml", "[daemon]\nmemory = \"ordinary\"\nrun_dir = \"/run/another\"\n");
  EXPECT_THAT(Run({"doctor", "--root", dir.path()}).out, HasSubstr("WARN   hugepages               none: "));
}

TEST_F(CliTest, DoctorWorksFromTheFileAlone) {
  const std::string config = dir.Write("everport.toml",
                                       "[[port]]\nname = \"p\"\nsocket = \"/run/x/p.sock\"\n"
                                       "[[port.uplink]]\nkind = \"af_packet\"\ndevice = \"eth9\"\n");
  const Result result = Run({"--api", dir / "none.sock", "doctor", "--config", config, "--root", dir.path()});
  EXPECT_EQ(result.status, 1);
  EXPECT_THAT(result.out, HasSubstr("FAIL   everportd"));
  EXPECT_THAT(result.out, HasSubstr("FAIL   port p           socket folder /run/x is missing"));
  EXPECT_THAT(result.out, HasSubstr("FAIL   port p uplink 0  network interface eth9 is missing"));
  EXPECT_EQ(Run({"doctor", "--config", dir / "none.toml"}).status, 1);
}

TEST_F(CliTest, WhatComesLaterSaysSo) {
  for (const auto& args : std::vector<std::vector<std::string>>{{"handover"}, {"drain"}}) {
    const Result result = Run(args);
    EXPECT_EQ(result.status, 1);
    EXPECT_THAT(result.err, HasSubstr("not available yet"));
  }
}

TEST_F(CliTest, NoDaemonIsOneLineWithTheMend) {
  const Result result = Run({"--api", dir / "none.sock", "ports"});
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(result.err, "everportctl: " + (dir / "none.sock") +
                            ": No such file or directory; start everportd, or name its API socket with --api\n");
}

TEST_F(CliTest, WrongUsageIsTwo) {
  for (const auto& args : std::vector<std::vector<std::string>>{{},
                                                                {"nope"},
                                                                {"port"},
                                                                {"port", "nope"},
                                                                {"port", "remove"},
                                                                {"contract", "check", "vm1"},
                                                                {"ports", "surplus"},
                                                                {"ports", "--nope"},
                                                                {"path", "vm1", "-1"},
                                                                {"path", "vm1", "x"},
                                                                {"port", "add", "vm1", "--file", "x"}}) {
    const Result result = Run(args);
    EXPECT_EQ(result.status, 2);
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, StartsWith("everportctl: "));
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
  }
}

TEST_F(CliTest, WrongUsageNamesTheWordAndTheMend) {
  const char* const verbs =
      "the verbs are ports, stats, events, placement, health, version, contract, port, path, top, doctor, libvirt-xml, "
      "handover, drain, migrate; see everportctl --help\n";
  EXPECT_EQ(Run({}).err, std::string("everportctl: a verb is missing; ") + verbs);
  EXPECT_EQ(Run({"prots"}).err, std::string("everportctl: prots: no such verb; did you mean ports?; ") + verbs);
  EXPECT_EQ(Run({"port", "ad"}).err,
            "everportctl: port: ad: no such verb; did you mean add?; the verbs are add, remove, show; see everportctl "
            "port --help\n");
  EXPECT_EQ(Run({"ports", "--jsno"}).err,
            "everportctl: ports: --jsno: no such option; did you mean --json?; see everportctl ports --help\n");
  EXPECT_EQ(Run({"path", "vm1", "x"}).err,
            "everportctl: path: UPLINK-INDEX: \"x\" is neither the index of an uplink, counted from 0, nor auto; see "
            "everportctl path --help\n");
  EXPECT_EQ(Run({"--api", "/a", "--api", "/b", "ports"}).err,
            "everportctl: ports: --api: is given more than once; give it once; see everportctl ports --help\n");
  EXPECT_EQ(Run({"port", "add", "vm1", "--mtu", "1500", "--mtu", "1500"}).err,
            "everportctl: port add: --mtu: is given more than once; give it once; see everportctl port add --help\n");
  EXPECT_EQ(Run({"port", "add", "vm1", "--mtu"}).err,
            "everportctl: port add: --mtu: its value is missing; see everportctl port add --help\n");
}

TEST_F(CliTest, VersionOption) {
  const Result result = Run({"--version"});
  EXPECT_EQ(result.status, 0);
  EXPECT_EQ(result.out, "everportctl " EVERPORT_VERSION "\n");
}

// stdout has results alone; the error is one JSON object on stderr, whatever it is.
TEST_F(CliTest, ErrorsAreJsonWhereResultsAre) {
  struct {
    std::vector<std::string> args;
    int status;
    const char *code, *message;
  } cases[] = {
      {{"--json", "nope"}, 2, "usage", "nope: no such verb"},
      {{"port", "remove", "--json"}, 2, "usage", "NAME is required"},
      {{"--json"}, 2, "usage", "a verb is missing"},
      {{"--json", "port", "add", "vm9"}, 2, "usage", "no socket is given"},
      {{"--json", "port", "show", "none"}, 1, "not_found", "port none: "},
      {{"--json", "drain"}, 1, "unimplemented", "not available yet"},
      {{"--json", "--api", dir / "none.sock", "ports"}, 1, "unavailable", "start everportd"},
      {{"--json", "doctor", "--config", dir.Write("bad.toml", "x = 1\n")}, 1, "failed_precondition", "bad.toml:1: x: "},
  };
  for (const auto& bad : cases) {
    const Result result = Run(bad.args);
    EXPECT_EQ(result.status, bad.status) << bad.message;
    EXPECT_EQ(result.out, "");
    const auto error = boost::json::parse(result.err).at("error");
    EXPECT_EQ(error.at("code"), bad.code);
    EXPECT_THAT(std::string(error.at("message").as_string()), HasSubstr(bad.message));
  }
}

TEST_F(CliTest, HealthShowsProblemsAndFailsWhenNotReady) {
  daemon.Do([&] {
    daemon.service().health.ready = true;
    daemon.service().health.keeper = "connected";
    daemon.service().health.problems = {"configuration: not reloaded: f:1: x; y"};
  });
  const Result well = Run({"health"});
  EXPECT_EQ(well.status, 0);
  EXPECT_EQ(well.out,
            "ready     yes\n"
            "daemon    a, version " EVERPORT_VERSION
            "\n"
            "keeper    connected\n"
            "start-up  200 ms: EAL 121, uplinks 31, replay 4\n"
            "problems\n"
            "  configuration: not reloaded: f:1: x; y\n");
  daemon.Do([&] {
    daemon.service().health.ready = false;
    daemon.service().health.problems.clear();
  });
  const Result ill = Run({"health"});
  EXPECT_EQ(ill.status, 1);
  EXPECT_THAT(ill.out, StartsWith("ready     no\n"));
  EXPECT_THAT(ill.out, HasSubstr("problems  none\n"));
  EXPECT_THAT(ill.err, StartsWith("everportctl: everportd: not ready"));
}

TEST_F(CliTest, PortAddTellsWhatItsUplinksLack) {
  daemon.Do([&] {
    daemon.service().uplink_errors = {"bridge br1 does not exist; make it", "af_packet eth9: no such device; check"};
  });
  EXPECT_EQ(
      Run({"port", "add", "vm9", "--socket", "/s", "--uplink", "tap:t9,bridge=br1", "--uplink", "af_packet:eth9"}).out,
      "port vm9 added: waiting, no path\n"
      "  uplink 0 (tap t9) does not work: bridge br1 does not exist; make it\n"
      "  uplink 1 does not work: af_packet eth9: no such device; check\n"
      "  The guest has no network until one works; they are tried again without further ado.\n");
}

TEST_F(CliTest, FeaturesOfAPortWithoutAGuestAreNotShown) {
  EXPECT_THAT(Run({"port", "show", "vm2"}).out, HasSubstr("\nfeatures     -\n"));
}

TEST_F(CliTest, EveryVerbsHelpHasAnExample) {
  for (const std::vector<std::string>& verb : std::vector<std::vector<std::string>>{{"ports"},
                                                                                    {"stats"},
                                                                                    {"top"},
                                                                                    {"events"},
                                                                                    {"placement"},
                                                                                    {"version"},
                                                                                    {"health"},
                                                                                    {"contract", "show"},
                                                                                    {"contract", "check"},
                                                                                    {"port", "add"},
                                                                                    {"port", "remove"},
                                                                                    {"port", "show"},
                                                                                    {"path"},
                                                                                    {"handover"},
                                                                                    {"drain"},
                                                                                    {"migrate"},
                                                                                    {"libvirt-xml"},
                                                                                    {"doctor"}}) {
    auto args = verb;
    args.push_back("--help");
    const Result result = Run(args);
    EXPECT_EQ(result.status, 0);
    EXPECT_THAT(result.out, HasSubstr("Example:\n  everportctl " + verb[0]));
  }
}

}  // namespace
}  // namespace everport::cli
