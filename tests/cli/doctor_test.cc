#include "backend/cli/doctor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backend/base/unique_fd.h"
#include "backend/base/unix_address.h"
#include "backend/cli/run_version.h"
#include "tests/fakes/certificates.h"
#include "tests/fakes/temp_dir.h"

namespace everport::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

auto Is(Level level, const std::string& object, const std::string& text) {
  return AllOf(Field(&Finding::level, level), Field(&Finding::object, object), Field(&Finding::text, HasSubstr(text)));
}

constexpr char kSocket[] = "/run/vms/vm1.sock";
constexpr char kQemu10[] = "QEMU emulator version 10.0.13 (Debian 1:10.0.13)\nCopyright";
constexpr char kQemu7[] = "QEMU emulator version 7.2.15 (Debian 1:7.2+dfsg)\nCopyright";

// A host on which nothing is wrong; each test breaks one thing.
class DoctorTest : public testing::Test {
 protected:
  DoctorTest() {
    facts.root = HostRoot(dir.path());
    facts.health = DoctorHealth{true, "connected", {}};
    facts.run_version = [this](const std::string&) { return version; };
    DoctorPort port;
    port.config.name = "vm1";
    port.config.socket = kSocket;
    port.config.uplinks = {{UplinkKind::kTap, "ep-vm1", "br0"}};
    facts.ports = {port};

    Write("/proc/meminfo",
          "MemTotal: 100 kB\nHugePages_Total:     512\nHugePages_Free:      200\nHugepagesize: 2048 kB\n");
    Write("/proc/mounts", "none /dev/hugepages hugetlbfs rw 0 0\n");
    Write("/proc/net/protocols", "protocol size\nTCP 1\nXDP 2\n");
    Write("/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages", "512\n");
    Write("/dev/net/tun", "");
    Interface("br0", "0x1003");
    fs::create_directories(Path("/sys/class/net/br0/bridge"));
    fs::create_directories(Path("/run/vms"));
    fs::permissions(Path("/run/vms"), fs::perms(0750));
    MakeSocket();
    Write("/proc/net/unix", absl::StrCat("Num RefCount Protocol Flags Type St Inode Path\n",
                                         "0000: 00000003 00000000 00000000 0001 03 14 /run/vms/other.sock\n",
                                         "0000: 00000002 00000000 00010000 0001 01 15 ", kSocket, "\n"));
    Qemu({"-accel", "tcg", "-object", "memory-backend-memfd,id=mem,size=256M,share=on", "-numa", "node,memdev=mem"});
  }

  std::string Path(const std::string& path) { return dir.path() + path; }
  void Write(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(Path(path)).parent_path());
    std::ofstream(Path(path)) << text;
  }
  void Interface(const std::string& name, const std::string& flags) {
    Write(absl::StrCat("/sys/class/net/", name, "/flags"), flags + "\n");
  }
  void MakeSocket() {
    const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
    const auto address = UnixAddress::Of(Path(kSocket));
    ASSERT_TRUE(address.ok()) << address.status();
    ASSERT_EQ(::bind(fd.get(), address->get(), address->size()), 0);
  }
  void Qemu(std::vector<std::string> args,
            const std::string& chardev = absl::StrCat("socket,id=c0,path=", kSocket, ",server=on")) {
    args.insert(args.begin(), "/usr/bin/qemu-system-x86_64");
    args.insert(args.end(), {"-chardev", chardev, "-netdev", "vhost-user,id=n0,chardev=c0"});
    Write("/proc/77/cmdline", absl::StrJoin(args, absl::string_view("\0", 1)) + std::string(1, '\0'));
  }
  void Keeper(unsigned uid, unsigned gid) {
    Write("/proc/50/comm", "everport-keeper\n");
    Write("/proc/50/status", absl::StrCat("Name:\tx\nUid:\t", uid, "\t", uid, "\t", uid, "\t", uid, "\nGid:\t", gid,
                                          "\t", gid, "\t", gid, "\t", gid, "\nGroups:\t\n"));
  }
  UplinkConfig& uplink() { return facts.ports[0].config.uplinks[0]; }

  fakes::TempDir dir;
  DoctorFacts facts;
  absl::StatusOr<std::string> version = std::string(kQemu10);
};

TEST_F(DoctorTest, NothingIsWrong) {
  const auto findings = Examine(facts);
  EXPECT_THAT(findings, Each(Field(&Finding::level, Level::kOk)));
  EXPECT_THAT(findings, Contains(Is(Level::kOk, "everportd", "ready")));
  EXPECT_THAT(findings, Contains(Is(Level::kOk, "keeper", "connected")));
  EXPECT_THAT(findings, Contains(Is(Level::kOk, "hugepages", "512 of 2 MiB, 200 free")));
  EXPECT_THAT(findings, Contains(Is(Level::kOk, "port vm1", "QEMU listens")));
  EXPECT_THAT(findings, Contains(Is(Level::kOk, "port vm1", "memory is shared")));
  EXPECT_THAT(findings, Contains(Is(Level::kOk, "port vm1", "QEMU 10.0.13 (pid 77)")));
  EXPECT_THAT(findings, Contains(Is(Level::kOk, "port vm1 uplink 0", "bridge br0 is up")));
}

TEST_F(DoctorTest, DaemonDoesNotAnswer) {
  facts.health.reset();
  facts.api_error = "api.sock: refused; start it";
  facts.ports.clear();
  const auto findings = Examine(facts);
  EXPECT_THAT(findings, Contains(Is(Level::kFail, "everportd", "api.sock: refused; start it")));
  EXPECT_THAT(findings, Contains(Is(Level::kWarn, "ports", "--config")));
}

TEST_F(DoctorTest, DaemonIsNotReadyAndSaysWhy) {
  facts.health = DoctorHealth{false, "not connected: no such file", {"poller 1: stuck; restart"}};
  const auto findings = Examine(facts);
  EXPECT_THAT(findings, Contains(Is(Level::kFail, "everportd", "not ready")));
  EXPECT_THAT(findings, Contains(Is(Level::kFail, "keeper", "not connected: no such file; start it")));
  EXPECT_THAT(findings, Contains(Is(Level::kWarn, "everportd", "poller 1: stuck; restart")));
}

TEST_F(DoctorTest, NothingIsSaidTwice) {
  facts.health = DoctorHealth{false,
                              "not connected: k.sock: refused; start it so",
                              {"keeper: k.sock: refused; start it so", "port vm1: uplink 0: busy",
                               "port vm1: uplink 0, chosen by hand: busy; or end the choice: everportctl path vm1 auto",
                               "port vm1: uplink 0: being opened for 4 s"}};
  facts.ports[0].uplink_errors = {"being opened for 5 s"};
  const auto findings = Examine(facts);
  EXPECT_THAT(findings, Contains(Field(&Finding::text, "not connected: k.sock: refused; start it so")));
  EXPECT_EQ(std::count_if(findings.begin(), findings.end(), [](const Finding& f) { return f.level != Level::kOk; }), 3);
}

TEST_F(DoctorTest, KeeperIsOff) {
  facts.health->keeper = "off";
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kWarn, "keeper", "lose their link")));
}

TEST_F(DoctorTest, NoHugepages) {
  Write("/proc/meminfo", "HugePages_Total:       0\n");
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kWarn, "hugepages", "nr_hugepages")));
  facts.daemon = DaemonConfig{};
  facts.daemon->memory = DaemonConfig::Memory::kHugepages;
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "hugepages", "nr_hugepages")));
}

TEST_F(DoctorTest, HugepagesThatAreNotWantedAreNotMissed) {
  facts.daemon = DaemonConfig{};
  facts.daemon->memory = DaemonConfig::Memory::kOrdinary;
  Write("/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages", "0\n");
  EXPECT_THAT(Examine(facts), Each(Field(&Finding::level, Level::kOk)));
  Write("/proc/meminfo", "HugePages_Total:       0\n");
  EXPECT_THAT(Examine(facts), Each(Field(&Finding::level, Level::kOk)));
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kOk, "hugepages", "memory = \"ordinary\"")));
}

TEST_F(DoctorTest, HugepagesNeedNoMountButShouldBeOnEachNode) {
  Write("/proc/mounts", "none / ext4 rw 0 0\n");
  EXPECT_THAT(Examine(facts), Each(Field(&Finding::level, Level::kOk)));
  Write("/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages", "0\n");
  const auto findings = Examine(facts);
  EXPECT_THAT(findings, Contains(Is(Level::kWarn, "hugepages", "none on node1")));
}

TEST_F(DoctorTest, NoTun) {
  fs::remove(Path("/dev/net/tun"));
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "tap", "modprobe tun")));
}

TEST_F(DoctorTest, AfXdpNeedsTheKernels) {
  uplink() = {UplinkKind::kAfXdp, "br0", ""};
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kOk, "af_xdp", "AF_XDP")));
  Write("/proc/net/protocols", "protocol size\nTCP 1\n");
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "af_xdp", "CONFIG_XDP_SOCKETS")));
}

TEST_F(DoctorTest, FolderIsMissing) {
  fs::remove_all(Path("/run/vms"));
  EXPECT_THAT(Examine(facts),
              Contains(Is(Level::kFail, "port vm1", "socket folder /run/vms is missing; run: install -d")));
}

TEST_F(DoctorTest, FolderIsNotForTheKeeper) {
  Keeper(12345, 12345);
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1", "everport-keeper may not look into /run/vms")));
  Keeper(0, 0);
  EXPECT_THAT(Examine(facts), Each(Field(&Finding::level, Level::kOk)));
}

TEST_F(DoctorTest, FolderIsForAnybody) {
  fs::permissions(Path("/run/vms"), fs::perms(0777));
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kWarn, "port vm1", "chmod o-w /run/vms")));
}

TEST_F(DoctorTest, SocketIsNotThereYet) {
  fs::remove(Path(kSocket));
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kWarn, "port vm1", "no QEMU has made /run/vms/vm1.sock yet")));
}

TEST_F(DoctorTest, SocketIsAFile) {
  fs::remove(Path(kSocket));
  Write(kSocket, "");
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1", "/run/vms/vm1.sock is no socket; remove it")));
}

TEST_F(DoctorTest, SocketIsNotForTheKeeper) {
  struct stat st {};
  ASSERT_EQ(::stat(Path("/run/vms").c_str(), &st), 0);
  fs::permissions(Path(kSocket), fs::perms(0700));
  fs::permissions(Path("/run/vms"), fs::perms(0755));
  Keeper(12345, 12345);
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1", "everport-keeper may not connect to")));
}

TEST_F(DoctorTest, SocketIsLeftOver) {
  Write("/proc/net/unix", "Num RefCount Protocol Flags Type St Inode Path\n");
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kWarn, "port vm1", "nobody listens on /run/vms/vm1.sock")));
  facts.ports[0].state = "running";
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kOk, "port vm1", "QEMU listens")));
}

TEST_F(DoctorTest, QemuIsTheClient) {
  Qemu({}, absl::StrCat("socket,id=c0,path=", kSocket));
  EXPECT_THAT(Examine(facts),
              Contains(Is(Level::kFail, "port vm1", "is the client of /run/vms/vm1.sock; add server=on")));
}

TEST_F(DoctorTest, QemuOfAnotherSocketIsNotThisPorts) {
  Qemu({}, absl::StrCat("socket,id=c0,path=", kSocket, "2,server=on"));
  EXPECT_FALSE(FindQemu(facts.root, kSocket).has_value());
}

struct MemoryCase {
  std::vector<std::string> args;
  bool shared;
};

TEST_F(DoctorTest, GuestMemoryIsSharedOrNot) {
  const MemoryCase cases[] = {
      {{"-m", "256"}, false},
      {{"-m", "256", "-mem-path", "/dev/hugepages"}, false},
      {{"-object", "memory-backend-memfd,id=m,size=1G,share=on", "-numa", "node,memdev=m"}, true},
      {{"-object", "memory-backend-memfd,id=m,size=1G", "-machine", "q35,memory-backend=m"}, true},
      {{"-object", "memory-backend-memfd,id=m,size=1G,share=off", "-machine", "q35,memory-backend=m"}, false},
      {{"-object", "memory-backend-file,id=m,mem-path=/dev/hugepages,size=1G", "-numa", "node,memdev=m"}, false},
      {{"-object", "memory-backend-file,id=m,mem-path=/dev/hugepages,size=1G,share=yes", "-numa", "node,memdev=m"},
       true},
      {{"-object", "memory-backend-memfd,id=m,size=1G,share=on"}, false},  // not the guest's RAM
      {{"-object", "memory-backend-ram,id=a,share=on", "-object", "memory-backend-ram,id=b", "-numa",
        "node,nodeid=0,memdev=a", "-numa", "node,nodeid=1,memdev=b"},
       false},
      // As libvirt writes it.
      {{"-machine", "pc-q35-10.0,usb=off,memory-backend=pc.ram", "-object",
        R"({"qom-type":"memory-backend-memfd","id":"pc.ram","share":true,"size":1073741824})"},
       true},
      {{"-machine", "pc-q35-10.0,memory-backend=pc.ram", "-object",
        R"({"qom-type":"memory-backend-ram","id":"pc.ram","size":1073741824})"},
       false},
  };
  for (const MemoryCase& memory : cases) {
    Qemu(memory.args);
    const auto findings = Examine(facts);
    if (memory.shared) {
      EXPECT_THAT(findings, Contains(Is(Level::kOk, "port vm1", "memory is shared")))
          << absl::StrJoin(memory.args, " ");
    } else {
      EXPECT_THAT(findings, Contains(Is(Level::kFail, "port vm1", "<access mode='shared'/>")))
          << absl::StrJoin(memory.args, " ");
    }
  }
}

TEST_F(DoctorTest, OldQemuCrashesWithoutKvm) {
  version = std::string(kQemu7);
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kWarn, "port vm1", "QEMU 7.2.15 without KVM crashes")));
  for (const std::vector<std::string>& args : std::vector<std::vector<std::string>>{
           {"-accel", "kvm"}, {"-enable-kvm"}, {"-machine", "q35,accel=kvm:tcg"}, {"-M", "accel=kvm"}}) {
    Qemu(args);
    EXPECT_THAT(Examine(facts), Contains(Is(Level::kOk, "port vm1", "QEMU 7.2.15"))) << args[0];
  }
}

TEST_F(DoctorTest, QemuThatDoesNotTellItsVersion) {
  version = absl::PermissionDeniedError("others may write it");
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kWarn, "port vm1", "others may write it")));
  version = std::string("ld.so (Debian GLIBC 2.41-12) stable release version 2.41.");
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kWarn, "port vm1", "does not tell its version")));
}

TEST_F(DoctorTest, BridgeIsMissingOrNoneOrDown) {
  Interface("br0", "0x1002");
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kWarn, "port vm1 uplink 0", "bridge br0 is down")));
  fs::remove_all(Path("/sys/class/net/br0/bridge"));
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1 uplink 0", "br0 is not a bridge")));
  fs::remove_all(Path("/sys/class/net/br0"));
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1 uplink 0", "ip link add br0 type bridge")));
}

TEST_F(DoctorTest, TapIsSomethingElseOrElsewhere) {
  Interface("ep-vm1", "0x1003");
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1 uplink 0", "ep-vm1 is there but is not a tap")));
  Write("/sys/class/net/ep-vm1/tun_flags", "0x1002\n");
  const fs::path master = Path("/sys/class/net/ep-vm1/master");
  fs::create_symlink("../../virtual/net/br0", master);
  EXPECT_THAT(Examine(facts), Each(Field(&Finding::level, Level::kOk)));
  fs::remove(master);
  fs::create_symlink("../../virtual/net/br7", master);
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1 uplink 0", "tap ep-vm1 is in br7, not in br0")));
}

// `ip link set ep-vm1 nomaster` under a working port: to the daemon all is well, the guest has no network.
TEST_F(DoctorTest, TapThatWasTakenOutOfItsBridgeIsAFailureThoughTheUplinkWorks) {
  Interface("ep-vm1", "0x1003");
  Write("/sys/class/net/ep-vm1/tun_flags", "0x1002\n");
  facts.ports[0].state = "running";
  facts.ports[0].uplink_errors = {""};
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1 uplink 0",
                                          "tap ep-vm1 is in no bridge, not in br0, so the guest's packets go elsewhere "
                                          "or nowhere; run: ip link set ep-vm1 master br0")));
}

TEST_F(DoctorTest, ARefusedReloadIsAboutTheConfiguration) {
  facts.health->problems = {"configuration: not reloaded: f:3: port[0].mtu: 1 is out of range; use 68 to 9216"};
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kWarn, "configuration", "not reloaded: f:3: port[0].mtu: ")));
}

TEST_F(DoctorTest, LibvirtsTroubleIsAboutLibvirt) {
  facts.health->libvirt = "off";
  EXPECT_THAT(Examine(facts), Not(Contains(Is(Level::kOk, "libvirt", ""))));
  facts.health->libvirt = "connected";
  facts.health->problems = {"libvirt: domain vm1: interface \"x\": no port: y; z"};
  EXPECT_THAT(Examine(facts), AllOf(Contains(Is(Level::kOk, "libvirt", "connected")),
                                    Contains(Is(Level::kWarn, "libvirt", "domain vm1: interface"))));
}

TEST_F(DoctorTest, InterfaceIsMissingOrDown) {
  uplink() = {UplinkKind::kAfPacket, "eth9", ""};
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1 uplink 0", "network interface eth9 is missing")));
  Interface("eth9", "0x1002");
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kWarn, "port vm1 uplink 0", "ip link set eth9 up")));
  Interface("eth9", "0x1003");
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kOk, "port vm1 uplink 0", "eth9 is up")));
}

TEST_F(DoctorTest, AVethWhoseSenderLeavesChecksumsToItLosesThemToAnAfPacketUplink) {
  const auto number = [&](const std::string& file, int value) {
    Write("/sys/class/net/" + file, std::to_string(value) + "\n");
  };
  const auto warns = [](const std::string& text) { return Contains(Is(Level::kWarn, "port vm1 uplink 0", text)); };
  uplink() = {UplinkKind::kAfPacket, "veth0", ""};
  Interface("veth0", "0x1003");
  number("veth0/ifindex", 5);
  number("veth0/iflink", 5);
  EXPECT_THAT(Examine(facts), Not(warns("is a veth")));
  number("veth0/iflink", 6);
  EXPECT_THAT(Examine(facts), warns("ethtool -K IF tx off for its other end, in that network namespace"));
  number("veth1/ifindex", 6);
  number("veth1/iflink", 5);
  EXPECT_THAT(Examine(facts), warns("veth0 is a veth: TCP and UDP of a program on this host that sends through veth1 "
                                    "reach the guest with unfinished checksums and are lost, though ping works; run: "
                                    "ethtool -K veth1 tx off; or use kind = \"tap\""));
  bool leaves = true;
  facts.leaves_checksums = [&](const std::string& interface) {
    EXPECT_EQ(interface, "veth1");
    return leaves;
  };
  EXPECT_THAT(Examine(facts), warns("is a veth"));
  leaves = false;
  EXPECT_THAT(Examine(facts), Not(warns("is a veth")));
  leaves = true;
  Write("/sys/class/net/veth0/lower_eth0/ifindex", "6\n");  // a VLAN
  EXPECT_THAT(Examine(facts), Not(warns("is a veth")));
}

TEST_F(DoctorTest, VfIsMissingOrNotBound) {
  uplink() = {UplinkKind::kVf, "0000:3b:02.1", ""};
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1 uplink 0", "sriov_numvfs")));
  const std::string device = "/sys/bus/pci/devices/0000:3b:02.1/";
  fs::create_directories(Path(device));
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1 uplink 0", "is not a VF")));
  fs::create_symlink("../0000:3b:00.0", Path(device + "physfn"));
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1 uplink 0", "has no IOMMU")));
  fs::create_symlink("../../../kernel/iommu_groups/7", Path(device + "iommu_group"));
  fs::create_symlink("../../../bus/pci/drivers/igbvf", Path(device + "driver"));
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1 uplink 0",
                                          "is bound to igbvf, not to vfio-pci; write bind = true at the uplink")));
  uplink().bind = true;
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kOk, "port vm1 uplink 0", "everportd binds it to vfio-pci")));
  fs::remove(Path(device + "driver"));
  fs::create_symlink("../../../bus/pci/drivers/vfio-pci", Path(device + "driver"));
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kOk, "port vm1 uplink 0", "bound to vfio-pci")));
  Write("/sys/kernel/iommu_groups/7/devices/0000:3b:02.1", "");
  Write("/sys/kernel/iommu_groups/7/devices/0000:3b:02.2", "");
  EXPECT_THAT(Examine(facts),
              Contains(Is(Level::kFail, "port vm1 uplink 0", "shares IOMMU group 7 with 0000:3b:02.2")));
}

TEST_F(DoctorTest, AGuestThatMayArriveByPostcopyNeedsAUserfaultfd) {
  const std::string key = "/proc/sys/vm/unprivileged_userfaultfd";
  const auto caps = [this](const std::string& mask) {
    Write("/proc/77/comm", "everportd\n");
    Write("/proc/77/status", "Uid:\t990\t990\t990\t990\nGid:\t990\t990\t990\t990\nGroups:\t\nCapEff:\t" + mask + "\n");
  };
  EXPECT_THAT(Examine(facts), Not(Contains(Field(&Finding::text, HasSubstr("post-copy")))));
  facts.ports[0].config.postcopy = true;
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1", "the kernel has no userfaultfd")));
  Write(key, "0\n");
  caps("0000000000000000");
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1", "sysctl vm.unprivileged_userfaultfd=1")));
  caps("0000000000080000");
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kOk, "port vm1", "may arrive by post-copy")));
  caps("000001fffff7ffff");
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1", "CAP_SYS_PTRACE")));
  Write(key, "1\n");
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kOk, "port vm1", "may arrive by post-copy")));
}

TEST_F(DoctorTest, DevicesThatTheDaemonMayNotOpen) {
  Write("/proc/77/comm", "everportd\n");
  Write("/proc/77/status", "Uid:\t990\t990\t990\t990\nGid:\t990\t990\t990\t990\nGroups:\t\n");
  const std::string device = "/sys/bus/pci/devices/0000:3b:02.1/";
  fs::create_directories(Path(device));
  fs::create_symlink("../0000:3b:00.0", Path(device + "physfn"));
  fs::create_symlink("../../../kernel/iommu_groups/7", Path(device + "iommu_group"));
  fs::create_symlink("../../../bus/pci/drivers/vfio-pci", Path(device + "driver"));
  Write("/dev/vfio/7", "");
  fs::permissions(Path("/dev/vfio/7"), fs::perms(0600));
  uplink() = {UplinkKind::kVf, "0000:3b:02.1", ""};
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1 uplink 0",
                                          "everportd may not open /dev/vfio/7; run: chown :everport /dev/vfio/7")));
  fs::permissions(Path("/dev/vfio/7"), fs::perms(0666));
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kOk, "port vm1 uplink 0", "bound to vfio-pci")));
}

TEST_F(DoctorTest, VhostVdpaDeviceIsMissing) {
  uplink() = {UplinkKind::kVhostVdpa, "/dev/vhost-vdpa-0", ""};
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1 uplink 0", "modprobe vhost_vdpa")));
  fs::create_directories(Path("/sys/bus/vdpa/drivers/vhost_vdpa"));
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1 uplink 0", "is missing; run: vdpa dev add")));
  Write("/dev/vhost-vdpa-0", "");
  EXPECT_THAT(Examine(facts),
              Contains(Is(Level::kFail, "port vm1 uplink 0", "/dev/vhost-vdpa-0 is an ordinary file, not a")));
  fs::remove(Path("/dev/vhost-vdpa-0"));
  fs::create_symlink("/dev/null", Path("/dev/vhost-vdpa-0"));  // a character device at least: 1:3
  fs::create_directories(Path("/sys/dev/char"));
  fs::create_symlink("../../devices/virtual/mem/null", Path("/sys/dev/char/1:3"));
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1 uplink 0", "is the device null, not a vhost-vdpa")));
  fs::remove(Path("/sys/dev/char/1:3"));
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1 uplink 0", "has no device behind it")));
  fs::create_symlink("../../devices/virtual/vduse0/vhost-vdpa-0", Path("/sys/dev/char/1:3"));
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kOk, "port vm1 uplink 0", "/dev/vhost-vdpa-0 is there")));
}

TEST_F(DoctorTest, VdpaDevicesArgumentsAreNoPartOfItsAddress) {
  uplink() = {UplinkKind::kVdpa, "0000:3b:02.1,vdpa=1", ""};
  EXPECT_THAT(Examine(facts),
              Contains(Is(Level::kFail, "port vm1 uplink 0", "PCI device 0000:3b:02.1 does not exist")));
  const std::string device = "/sys/bus/pci/devices/0000:3b:02.1/";
  fs::create_directories(Path(device));
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "port vm1 uplink 0", "is bound to no driver")));
  fs::create_symlink("../../../bus/pci/drivers/mlx5_core", Path(device + "driver"));
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kOk, "port vm1 uplink 0", "0000:3b:02.1 is there")));
}

TEST_F(DoctorTest, VirtioUserNeedsVhostNet) {
  uplink() = {UplinkKind::kVirtioUser, "vu0", "br0"};
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kFail, "virtio-user", "modprobe vhost_net")));
  Write("/dev/vhost-net", "");
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kOk, "virtio-user", "/dev/vhost-net is there")));
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kOk, "port vm1 uplink 0", "bridge br0 is up")));
}

TEST_F(DoctorTest, AnUplinkThatWorksButIsNotSeenHereIsNoFailure) {
  fs::remove_all(Path("/sys/class/net/br0"));
  facts.ports[0].state = "running";
  facts.ports[0].uplink_errors = {""};
  const auto findings = Examine(facts);
  EXPECT_THAT(findings, Contains(Is(Level::kWarn, "port vm1 uplink 0", "run doctor in that one")));
  EXPECT_THAT(findings, Not(Contains(Field(&Finding::level, Level::kFail))));
}

TEST_F(DoctorTest, WhatTheDaemonSaysOfAnUplinkIsShown) {
  facts.ports[0].uplink_errors = {"uplink 0: busy; free it"};
  EXPECT_THAT(Examine(facts), Contains(Is(Level::kWarn, "port vm1 uplink 0", "everportd: uplink 0: busy; free it")));
}

std::vector<std::string> TextsOf(const std::vector<Finding>& findings, const std::string& object) {
  std::vector<std::string> texts;
  for (const Finding& finding : findings) {
    if (finding.object == object) texts.push_back(finding.text);
  }
  return texts;
}

// What is seen from here may only follow from it: a tap that the daemon cannot open is put into no bridge.
TEST_F(DoctorTest, TheDaemonsOwnErrorOfAnUplinkComesFirst) {
  Interface("ep-vm1", "0x1003");
  Write("/sys/class/net/ep-vm1/tun_flags", "0x1002\n");
  facts.ports[0].state = "running";
  facts.ports[0].uplink_errors = {"tap ep-vm1: ep-vm1 is a tap with one queue; choose another name"};
  EXPECT_THAT(TextsOf(Examine(facts), "port vm1 uplink 0"),
              ElementsAre(HasSubstr("everportd: tap ep-vm1: ep-vm1 is a tap with one queue"),
                          HasSubstr("bridge br0 is up"), HasSubstr("tap ep-vm1 is in no bridge")));
}

TEST_F(DoctorTest, WhatTheDaemonAndDoctorSayAlikeIsSaidOnce) {
  uplink() = {UplinkKind::kVf, "0000:3b:02.1", ""};
  facts.ports[0].state = "waiting";
  const std::string missing = TextsOf(Examine(facts), "port vm1 uplink 0").at(0);
  facts.ports[0].uplink_errors = {missing};
  EXPECT_THAT(TextsOf(Examine(facts), "port vm1 uplink 0"), ElementsAre(missing));
}

TEST_F(DoctorTest, APortOfOffloadDevicesAloneIsWarnedOf) {
  const auto warned = Contains(Is(Level::kWarn, "port vm1", "has offload devices alone"));
  EXPECT_THAT(Examine(facts), Not(warned));
  facts.ports[0].config.uplinks.push_back({UplinkKind::kVhostVdpa, "/dev/vhost-vdpa-0", ""});
  EXPECT_THAT(Examine(facts), Not(warned)) << "the tap serves the guest meanwhile";
  facts.ports[0].config.uplinks.erase(facts.ports[0].config.uplinks.begin());
  EXPECT_THAT(Examine(facts), warned);
}

TEST_F(DoctorTest, AGuestWithoutAPathIsAFailure) {
  facts.ports[0].config.uplinks.push_back({UplinkKind::kVdev, "net_null0", ""});
  facts.ports[0].uplink_errors = {"busy; free it", "gone; bring it back"};
  const auto fails = Contains(Is(Level::kFail, "port vm1", "no uplink works: the guest has no network"));
  for (const char* state : {"connected", "running"}) {
    facts.ports[0].state = state;
    EXPECT_THAT(Examine(facts), fails) << state;
  }
  facts.ports[0].has_path = true;  // an uplink that was said to fail serves until another is there
  EXPECT_THAT(Examine(facts), Not(fails));
  facts.ports[0].has_path = false;
  facts.ports[0].uplink_errors[1].clear();
  EXPECT_THAT(Examine(facts), Not(fails)) << "it is being opened";
  facts.ports[0].uplink_errors[1] = "gone";
  facts.ports[0].state = "waiting";
  EXPECT_THAT(Examine(facts), Not(fails)) << "there is no guest";
}

// The system's own programs stand for QEMU: what counts is that they print, and whose they are.
TEST(RunVersionTest, RunsARootOwnedProgram) {
  const auto text = RunVersion("/usr/bin/env");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text, HasSubstr("env"));
}

TEST(RunVersionTest, DoesNotRunWhatOthersMayWrite) {
  fakes::TempDir dir;
  const std::string program = dir / "qemu";
  fs::copy_file("/usr/bin/env", program);
  fs::permissions(program, fs::perms(0777));
  EXPECT_EQ(RunVersion(program).status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(RunVersion(dir / "none").status().code(), absl::StatusCode::kNotFound);
}

// [daemon.listen] with files below the test's root.
class DoctorListenerTest : public DoctorTest {
 protected:
  DoctorListenerTest() {
    facts.daemon = DaemonConfig{};
    facts.daemon->listen = ListenConfig{.address = "0.0.0.0:9440",
                                        .ip = "0.0.0.0",
                                        .port = 9440,
                                        .certificate = "/host.crt",
                                        .key = "/host.key",
                                        .ca = "/ca.crt",
                                        .allow = {}};
    dir.Write("ca.crt", ca.pem());
    Issue(90);
  }
  void Issue(int64_t days) {
    const auto issued = ca.Issue({.ends = days * 86400});
    dir.Write("host.crt", issued.certificate);
    std::filesystem::permissions(dir.Write("host.key", issued.key), std::filesystem::perms::owner_read);
  }
  std::vector<Finding> Found() {
    std::vector<Finding> findings;
    ExamineListener(facts, findings);
    return findings;
  }
  fakes::FakeCa ca;
};

TEST_F(DoctorListenerTest, GoodCertificateIsToldWithItsEnd) {
  const auto found = Found();
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].level, Level::kOk);
  EXPECT_THAT(found[0].text, StartsWith("0.0.0.0:9440, certificate (CN=host-a) valid until 20"));
  facts.daemon->listen.reset();
  EXPECT_TRUE(Found().empty());
}

TEST_F(DoctorListenerTest, CertificateThatEndsWithin30DaysIsWarnedOf) {
  Issue(29);
  const auto found = Found();
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].level, Level::kWarn);
  EXPECT_THAT(found[0].text,
              StartsWith("daemon.listen.certificate: /host.crt: the certificate (CN=host-a) expires on 20"));
  EXPECT_THAT(found[0].text, HasSubstr("; renew it, and run: systemctl reload everportd"));
}

TEST_F(DoctorListenerTest, FaultsOfFilesAreFailures) {
  Issue(-1);
  dir.Write("ca.crt", "none");
  const auto found = Found();
  ASSERT_EQ(found.size(), 2u);
  for (const Finding& finding : found) EXPECT_EQ(finding.level, Level::kFail) << finding.text;
  EXPECT_THAT(found[0].text, HasSubstr("/host.crt: the certificate (CN=host-a) expired on "));
  EXPECT_THAT(found[1].text, StartsWith("daemon.listen.ca: /ca.crt: holds no PEM certificate"));
}

TEST_F(DoctorListenerTest, WhatTheDaemonSaysIsSaidOnceEach) {
  const std::string in_force =
      "daemon.listen.certificate: /host.crt: the certificate in force expires on 2026-01-01; renew it";
  const std::string address = "daemon.listen.address: 0.0.0.0:9440: Address already in use; choose another port";
  facts.health->problems = {in_force, address};
  auto found = Found();  // the file is a newer one
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].text, in_force);
  EXPECT_EQ(found[1].text, address);
  EXPECT_EQ(found[1].level, Level::kWarn);
  EXPECT_EQ(found[2].level, Level::kOk);
  Issue(3);
  found = Found();
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].text, address);
  std::vector<Finding> daemon;
  ExamineDaemon(facts, daemon);
  for (const Finding& finding : daemon) EXPECT_THAT(finding.text, testing::Not(HasSubstr("daemon.listen")));
}

}  // namespace
}  // namespace everport::cli
