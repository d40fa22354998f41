#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "backend/config/config.h"

namespace everport {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// The message of the error that `toml` is refused with; "accepted" if it is not.
std::string Refusal(const std::string& toml) {
  const auto config = ParseConfig(toml, "everport.toml");
  return config.ok() ? "accepted" : std::string(config.status().message());
}

// A port whose uplink begins on line 5.
std::string PortWith(const std::string& port_keys, const std::string& uplink_keys = "kind = \"tap\"\ndevice = \"t0\"") {
  return absl::StrCat("[[port]]\nname = \"vm1\"\nsocket = \"/run/vm1.sock\"\n", port_keys, "\n[[port.uplink]]\n",
                      uplink_keys, "\n");
}

std::string DaemonWith(const std::string& keys) {
  return absl::StrCat("[daemon]\n", keys, "\n");
}

TEST(ParseConfig, EmptyFileIsTheDefaults) {
  EXPECT_EQ(*ParseConfig("", "f"), Config{});
}

TEST(ParseConfig, ReadsEveryKey) {
  const auto config = ParseConfig(R"(
[daemon]
name = "a"
run_dir = "/tmp/run"
state_dir = "/tmp/state"
keeper = false
pollers = [3, 2]
memory = "ordinary"
log_level = "debug"
[daemon.idle]
max_sleep_us = 0

[[port]]
name = "vm1-net0"
socket = "/run/vms/vm1-net0.sock"
mac = "52:54:00:AB:00:02"
queue_pairs = 4
mtu = 9216
contract = "everport-1"
failback_delay_ms = 4294967295
[[port.uplink]]
kind = "af_xdp"
device = "eth1"
[[port.uplink]]
kind = "tap"
device = "ep-vm1"
bridge = "br0"
)",
                                  "everport.toml");
  ASSERT_TRUE(config.ok()) << config.status();
  Config wanted;
  wanted.daemon = {.name = "a",
                   .run_dir = "/tmp/run",
                   .state_dir = "/tmp/state",
                   .keeper = false,
                   .poller_cpus = {3, 2},
                   .memory = DaemonConfig::Memory::kOrdinary,
                   .max_sleep_us = 0,
                   .log_level = "debug",
                   .listen = {}};
  wanted.ports = {{.name = "vm1-net0",
                   .socket = "/run/vms/vm1-net0.sock",
                   .mac = "52:54:00:ab:00:02",
                   .queue_pairs = 4,
                   .mtu = 9216,
                   .contract = "everport-1",
                   .failback_delay_ms = 4294967295,
                   .uplinks = {{UplinkKind::kAfXdp, "eth1", ""}, {UplinkKind::kTap, "ep-vm1", "br0"}}}};
  EXPECT_EQ(*config, wanted);
}

TEST(ParseConfig, PostcopyNeedsTheKeeper) {
  const std::string port = PortWith("postcopy = true");
  const auto config = ParseConfig(port, "f");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->ports[0].postcopy);
  EXPECT_FALSE(ParseConfig(PortWith("mtu = 1500"), "f")->ports[0].postcopy);
  const std::string refusal = Refusal("daemon.keeper = false\n" + port);
  EXPECT_THAT(refusal, ::testing::HasSubstr("port[0].postcopy: needs the keeper"));
  EXPECT_THAT(refusal, ::testing::HasSubstr("set keeper = true"));
}

TEST(ParseConfig, PollersAutoIsTheEmptyList) {
  EXPECT_TRUE(ParseConfig(DaemonWith("pollers = \"auto\""), "f")->daemon.poller_cpus.empty());
}

TEST(ParseConfig, PortsAreInFileOrder) {
  std::string toml;
  for (const char* name : {"zeta", "alpha", "mid"}) {
    absl::StrAppend(&toml, "[[port]]\nname = \"", name, "\"\nsocket = \"/s/", name,
                    "\"\n[[port.uplink]]\nkind = \"vdev\"\ndevice = \"net_null_", name, "\"\n");
  }
  const auto config = ParseConfig(toml, "f");
  ASSERT_TRUE(config.ok()) << config.status();
  std::vector<std::string> names;
  for (const PortConfig& port : config->ports) names.push_back(port.name);
  EXPECT_THAT(names, ElementsAre("zeta", "alpha", "mid"));
}

// Every message: FILE:LINE: KEY: cause; mend.
TEST(ParseConfigError, UnknownUplinkKindListsTheKinds) {
  EXPECT_EQ(Refusal(PortWith("", "kind = \"tapp\"")),
            "everport.toml:6: port[0].uplink[0].kind: \"tapp\" is not an uplink kind; use one of vf, vdpa, vhost-vdpa, "
            "tap, af_packet, af_xdp, virtio-user, vdev, port");
}

TEST(ParseConfigError, SyntaxNamesFileAndLine) {
  EXPECT_THAT(Refusal("[daemon]\nname = \n"), AllOf(StartsWith("everport.toml:2: not valid TOML: "), HasSubstr(";")));
  EXPECT_THAT(Refusal("[daemon]\nname = \"a\"\nname = \"b\"\n"), StartsWith("everport.toml:3: not valid TOML: "));
  EXPECT_THAT(Refusal("[daemon]\n[daemon]\n"), StartsWith("everport.toml:2: not valid TOML: "));
}

TEST(ParseConfigError, UnknownKeySuggestsTheNearest) {
  EXPECT_EQ(Refusal(PortWith("\nqueue_pair = 2")),
            "everport.toml:5: port[0].queue_pair: unknown key; did you mean queue_pairs?");
  EXPECT_EQ(Refusal("[demon]\n"), "everport.toml:1: demon: unknown key; did you mean daemon?");
  EXPECT_EQ(Refusal("[daemon.idle]\nmax_sleep = 1\n"),
            "everport.toml:2: daemon.idle.max_sleep: unknown key; did you mean max_sleep_us?");
  EXPECT_EQ(Refusal(PortWith("", "kind = \"tap\"\ndevice = \"t0\"\nBridge = \"b\"")),
            "everport.toml:8: port[0].uplink[0].Bridge: unknown key; did you mean bridge?");
}

TEST(ParseConfigError, UnknownKeyFarFromAllListsThem) {
  EXPECT_EQ(Refusal("colour = 1\n"),
            "everport.toml:1: colour: unknown key; known here are daemon, contract, port, libvirt");
}

TEST(ParseConfigError, OddKeysAreShownEscaped) {
  EXPECT_THAT(Refusal("\"a\\nb\\u0007\" = 1\n"), StartsWith("everport.toml:1: \"a\\nb\\x07\": unknown key"));
}

TEST(ParseConfigError, WrongTypeSaysWhatItIsAndWhatIsWanted) {
  EXPECT_EQ(Refusal(PortWith("mtu = \"1500\"")),
            "everport.toml:4: port[0].mtu: is the string \"1500\" where an integer is wanted; write an integer");
  EXPECT_EQ(Refusal(PortWith("mtu = 1500.0")),
            "everport.toml:4: port[0].mtu: is the number 1500 where an integer is wanted; write an integer");
  EXPECT_EQ(Refusal(PortWith("mac = 7")),
            "everport.toml:4: port[0].mac: is the integer 7 where a string is wanted; write a string");
  EXPECT_EQ(Refusal(DaemonWith("keeper = \"yes\"")),
            "everport.toml:2: daemon.keeper: is the string \"yes\" where true or false is wanted; write true or false");
  EXPECT_EQ(Refusal("daemon = 1\n"),
            "everport.toml:1: daemon: is the integer 1 where a table is wanted; write a table");
  EXPECT_EQ(Refusal("[port]\nname = \"a\"\n"),
            "everport.toml:1: port: is a table where a list of tables is wanted; write [[port]]");
  EXPECT_EQ(Refusal("port = [1]\n"),
            "everport.toml:1: port[0]: is the integer 1 where a table is wanted; write [[port]]");
  EXPECT_THAT(Refusal(PortWith("mac = 2024-01-01")), StartsWith("everport.toml:4: port[0].mac: is a date or time"));
}

TEST(ParseConfigError, WrongTypeOfAValueOnALaterLineIsThere) {
  EXPECT_THAT(Refusal("[daemon]\npollers = [\n  0,\n  \"1\",\n]\n"),
              StartsWith("everport.toml:4: daemon.pollers[1]: is the string \"1\" where an integer is wanted"));
}

TEST(ParseConfigError, RangesAreNamed) {
  EXPECT_EQ(Refusal(PortWith("queue_pairs = 0")),
            "everport.toml:4: port[0].queue_pairs: 0 is out of range; use 1 to 16");
  EXPECT_EQ(Refusal(PortWith("queue_pairs = 17")),
            "everport.toml:4: port[0].queue_pairs: 17 is out of range; use 1 to 16");
  EXPECT_EQ(Refusal(PortWith("mtu = 67")), "everport.toml:4: port[0].mtu: 67 is out of range; use 68 to 9216");
  EXPECT_EQ(Refusal(PortWith("mtu = 67036")), "everport.toml:4: port[0].mtu: 67036 is out of range; use 68 to 9216")
      << "not wrapped to 1500";
  EXPECT_EQ(Refusal(PortWith("failback_delay_ms = -1")),
            "everport.toml:4: port[0].failback_delay_ms: -1 is out of range; use 0 to 4294967295");
  EXPECT_EQ(Refusal("[daemon.idle]\nmax_sleep_us = 1000001\n"),
            "everport.toml:2: daemon.idle.max_sleep_us: 1000001 is out of range; use 0 to 1000000");
  EXPECT_EQ(Refusal(PortWith("queue_pairs = 16\nmtu = 68")), "accepted");
}

TEST(ParseConfigError, MissingKeysPointAtTheirTable) {
  EXPECT_THAT(Refusal("\n[[port]]\nsocket = \"/s\"\n"),
              StartsWith("everport.toml:2: port[0].name: no name is given; "));
  EXPECT_THAT(Refusal("[[port]]\nname = \"vm1\"\n"),
              StartsWith("everport.toml:1: port[0].socket: no socket is given; "));
  EXPECT_EQ(Refusal("[[port]]\nname = \"vm1\"\nsocket = \"/s\"\n"),
            "everport.toml:1: port[0].uplink: there is none; add at least one [[port.uplink]]");
  EXPECT_THAT(Refusal(PortWith("", "device = \"t0\"")),
              StartsWith("everport.toml:5: port[0].uplink[0].kind: is missing; "));
  EXPECT_THAT(Refusal(PortWith("", "kind = \"tap\"")),
              StartsWith("everport.toml:5: port[0].uplink[0].device: no network interface is named; "));
}

TEST(ParseConfigError, VdpaDevices) {
  const auto refusal = [](const char* device) {
    return Refusal(PortWith("", absl::StrCat("kind = \"vdpa\"\ndevice = \"", device, "\"")));
  };
  EXPECT_THAT(refusal(""), StartsWith("everport.toml:7: port[0].uplink[0].device: no device is named; give the vDPA "));
  EXPECT_THAT(refusal(",class=vdpa"),
              StartsWith("everport.toml:7: port[0].uplink[0].device: \",class=vdpa\" is not a device of DPDK's; "));
}

std::string ListenWith(const std::string& address, const std::string& more = "") {
  return absl::StrCat("[daemon.listen]\naddress = \"", address,
                      "\"\ncertificate = \"/e/host.crt\"\nkey = \"/e/host.key\"\nca = \"/e/ca.crt\"\n", more);
}

TEST(ParseConfig, Listen) {
  EXPECT_FALSE(ParseConfig("[daemon]\n", "f")->daemon.listen);
  const auto config = ParseConfig(ListenWith("10.0.0.1:9440", "allow = [\"hv2\", \"10.0.0.2\"]\n"), "f");
  ASSERT_TRUE(config.ok()) << config.status();
  const ListenConfig listen{.address = "10.0.0.1:9440",
                            .ip = "10.0.0.1",
                            .port = 9440,
                            .certificate = "/e/host.crt",
                            .key = "/e/host.key",
                            .ca = "/e/ca.crt",
                            .allow = {"hv2", "10.0.0.2"}};
  EXPECT_EQ(config->daemon.listen, listen);
  const auto v6 = ParseConfig(ListenWith("[::]:1"), "f");
  ASSERT_TRUE(v6.ok()) << v6.status();
  EXPECT_EQ(v6->daemon.listen->ip, "::");
  EXPECT_EQ(v6->daemon.listen->port, 1);
  EXPECT_TRUE(v6->daemon.listen->allow.empty());
}

TEST(ParseConfigError, ListenAddress) {
  const auto refusal = [](const char* address) { return Refusal(ListenWith(address)); };
  EXPECT_EQ(refusal("10.0.0.1"),
            "everport.toml:2: daemon.listen.address: \"10.0.0.1\" has no port; write ADDRESS:PORT, for example "
            "\"0.0.0.0:9440\" or \"[::]:9440\"");
  for (const char* no_port : {"10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:http", "10.0.0.1:-1", "[::]:0"}) {
    EXPECT_THAT(refusal(no_port), HasSubstr("has no port of 1 to 65535; write")) << no_port;
  }
  EXPECT_THAT(refusal("::9440"), HasSubstr("is an IPv6 address without brackets; "));
  for (const char* no_ip : {"hv1:9440", ":9440", "[10.0.0.1]:9440", "[hv1]:9440", "10.0.0:9440", "*:9440"}) {
    EXPECT_THAT(refusal(no_ip), HasSubstr("does not begin with an IP address of this host; ")) << no_ip;
  }
  EXPECT_THAT(refusal("10.0.0.1:"), HasSubstr("has no port; "));
}

TEST(ParseConfigError, ListenWantsAllFilesAndKnowsNothingElse) {
  const auto config = ParseConfig("[daemon.listen]\nadress = \"0.0.0.0:1\"\nkey = \"host.key\"\nca = 1\n", "f");
  EXPECT_EQ(config.status().message(),
            "f:1: daemon.listen.certificate: is missing; name the file of this daemon's certificate (PEM)\n"
            "f:2: daemon.listen.adress: unknown key; did you mean address?\n"
            "f:3: daemon.listen.key: \"host.key\" is not an absolute path; begin it with '/'\n"
            "f:4: daemon.listen.ca: is the integer 1 where a string is wanted; write a string");
  EXPECT_THAT(Refusal("daemon.listen = 1\n"), HasSubstr("where a table is wanted"));
}

TEST(ParseConfigError, ListenAllow) {
  const auto refusal = [](const char* allow) {
    return Refusal(ListenWith("0.0.0.0:1", absl::StrCat("allow = ", allow, "\n")));
  };
  EXPECT_THAT(refusal("[]"),
              StartsWith("everport.toml:6: daemon.listen.allow: the list is empty: nobody could connect; "));
  EXPECT_THAT(refusal("\"hv2\""), HasSubstr("where a list of strings is wanted"));
  EXPECT_THAT(refusal("[\"hv2\", 3]"), HasSubstr("daemon.listen.allow[1]: is the integer 3 where a string is wanted"));
  EXPECT_THAT(refusal("[\"\"]"), HasSubstr("daemon.listen.allow[0]: \"\" is no name of a certificate; "));
}

TEST(ParseConfigError, DaemonKeysAreChecked) {
  EXPECT_THAT(Refusal(DaemonWith("name = \"a b\"")),
              StartsWith("everport.toml:2: daemon.name: \"a b\" is not a daemon"));
  EXPECT_THAT(Refusal(DaemonWith("run_dir = \"run\"")),
              StartsWith("everport.toml:2: daemon.run_dir: \"run\" is not an absolute path; "));
  EXPECT_THAT(Refusal(DaemonWith("state_dir = \"\"")), StartsWith("everport.toml:2: daemon.state_dir: "));
  EXPECT_THAT(Refusal(DaemonWith("memory = \"huge\"")),
              StartsWith("everport.toml:2: daemon.memory: \"huge\" is not a kind of memory; use auto"));
  EXPECT_THAT(Refusal(DaemonWith("log_level = \"loud\"")),
              StartsWith("everport.toml:2: daemon.log_level: \"loud\" is not a log level; use trace"));
  EXPECT_THAT(Refusal(DaemonWith("pollers = 2")),
              StartsWith("everport.toml:2: daemon.pollers: is the integer 2; write"));
  EXPECT_THAT(Refusal(DaemonWith("pollers = []")), StartsWith("everport.toml:2: daemon.pollers: the list is empty; "));
  EXPECT_THAT(Refusal(DaemonWith("pollers = [1, 1]")),
              StartsWith("everport.toml:2: daemon.pollers[1]: CPU 1 is listed twice; "));
  EXPECT_THAT(Refusal(DaemonWith("pollers = [-1]")),
              StartsWith("everport.toml:2: daemon.pollers[0]: -1 is out of range"));
}

TEST(ParseConfigError, RunDirMustLeaveRoomForSocketPaths) {
  EXPECT_EQ(Refusal(DaemonWith(absl::StrCat("run_dir = \"/", std::string(94, 'r'), "\""))), "accepted");
  EXPECT_THAT(Refusal(DaemonWith(absl::StrCat("run_dir = \"/", std::string(95, 'r'), "\""))),
              StartsWith("everport.toml:2: daemon.run_dir: is 96 bytes long; "));
  const std::string long_dir = absl::StrCat("run_dir = \"/", std::string(90, 'r'), "\"\n");
  EXPECT_EQ(Refusal(DaemonWith(long_dir) + PortWith("")), "accepted") << "/r…/keeper/vm1.sock: 107 bytes";
  const std::string too_long = absl::StrCat("run_dir = \"/", std::string(91, 'r'), "\"\n");
  EXPECT_THAT(Refusal(DaemonWith(too_long) + PortWith("")),
              StartsWith("everport.toml:5: port[0].name: makes the path of its socket in run_dir 108 bytes long"));
  EXPECT_EQ(Refusal(DaemonWith(too_long + "keeper = false") + PortWith("")), "accepted");
}

TEST(ParseConfigError, DuplicatesNameBothLines) {
  const std::string second = "[[port]]\nname = \"vm2\"\nsocket = \"/run/vm2.sock\"\n[[port.uplink]]\nkind = \"tap\"\n";
  const auto replace = [](std::string text, const std::string& from, const std::string& to) {
    return text.replace(text.find(from), from.size(), to);
  };
  EXPECT_EQ(Refusal(PortWith("") + replace(second, "vm2\"", "vm1\"") + "device = \"t1\"\n"),
            "everport.toml:9: port[1].name: \"vm1\" is already the name of port[0] (line 2); give one of them another");
  EXPECT_EQ(Refusal(PortWith("") + replace(second, "/run/vm2.sock", "/run//vm1.sock") + "device = \"t1\"\n"),
            "everport.toml:10: port[1].socket: \"/run//vm1.sock\" is already the socket of port[0] (line 3); a socket "
            "serves one port: change one");
  EXPECT_EQ(Refusal(PortWith("") + second + "device = \"t0\"\n"),
            "everport.toml:13: port[1].uplink[0].device: network interface \"t0\" is already used by port[0] (line 7); "
            "an uplink belongs to one port: name another device");
}

TEST(ParseConfigError, WireToAPortThatIsNotThere) {
  EXPECT_EQ(Refusal(PortWith("", "kind = \"port\"\ndevice = \"vm9\"")),
            "everport.toml:7: port[0].uplink[0].device: there is no port \"vm9\"; declare it, or name another");
}

TEST(ParseConfigError, OversizedInputIsRefused) {
  EXPECT_THAT(Refusal(std::string((1 << 20) + 1, '\n')), HasSubstr("larger than 1 MiB"));
  EXPECT_THAT(Refusal("\n# " + std::string(4096, 'x')), StartsWith("everport.toml:2: the line is longer than 4096"));
  EXPECT_EQ(Refusal("# " + std::string(4094, 'x')), "accepted");
}

TEST(ParseConfigError, DeepTablesAreRefused) {
  std::string key = "a";
  for (int i = 0; i < 1000; ++i) key += ".a";
  EXPECT_THAT(Refusal(key + " = 1\n"), HasSubstr("too deep"));
}

// One run of --check shows all there is to mend, each fault once, and nothing that only follows from another.
TEST(ParseConfig, SaysAllThatIsWrong) {
  EXPECT_EQ(
      Refusal("[daemon]\n"
              "nane = \"a\"\n"               // 2
              "log_level = \"loud\"\n"       // 3
              "pollers = [9999, 1, 1]\n"     // 4
              "[[port]]\n"                   // 5
              "name = \"vm1\"\n"             // 6
              "sockett = \"/run/1.sock\"\n"  // 7: and no "no socket is given"
              "mtu = \"big\"\n"              // 8
              "[[port.uplink]]\n"            // 9
              "kind = \"tapp\"\n"            // 10: and nothing of its device
              "device = \"a b\"\n"
              "[[port]]\n"  // 12
              "name = \"vm2\"\n"
              "socket = \"/run/2.sock\"\n"
              "[[port.uplink]]\n"
              "kind = \"port\"\n"
              "device = \"vm1\"\n"  // 17: who knows; vm1 has faults of its own
              "[[port]]\n"          // 18
              "name = \"vm3\"\n"
              "socket = \"/run/2.sock\"\n"  // 20
              "[[port.uplink]]\n"
              "kind = \"tap\"\n"
              "device = \"t3\"\n"),
      "everport.toml:2: daemon.nane: unknown key; did you mean name?\n"
      "everport.toml:3: daemon.log_level: \"loud\" is not a log level; use trace, debug, info, warning, error or "
      "critical\n"
      "everport.toml:4: daemon.pollers[0]: 9999 is out of range; use 0 to 8191\n"
      "everport.toml:4: daemon.pollers[2]: CPU 1 is listed twice; a poller has a CPU for itself\n"
      "everport.toml:7: port[0].sockett: unknown key; did you mean socket?\n"
      "everport.toml:8: port[0].mtu: is the string \"big\" where an integer is wanted; write an integer\n"
      "everport.toml:10: port[0].uplink[0].kind: \"tapp\" is not an uplink kind; use one of vf, vdpa, vhost-vdpa, "
      "tap, af_packet, af_xdp, virtio-user, vdev, port\n"
      "everport.toml:20: port[2].socket: \"/run/2.sock\" is already the socket of port[1] (line 14); a socket "
      "serves one port: change one");
}

TEST(FirstFault, IsOneLineThatCountsTheOthers) {
  EXPECT_EQ(FirstFault(absl::InvalidArgumentError("f:1: a: x; y")), "f:1: a: x; y");
  EXPECT_EQ(FirstFault(absl::InvalidArgumentError("f:1: a\nf:2: b\nf:3: c")),
            "f:1: a (and 2 more: everportd --check lists all)");
}

}  // namespace
}  // namespace everport
