// What --check says of a host: one that has all, and each thing that may be missing.
#include "backend/config/preflight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/fakes/temp_dir.h"

namespace everport {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

class PreflightTest : public ::testing::Test {
 protected:
  PreflightTest() {
    host.root = dir.path();
    host.allowed_cpus = {0, 1};
    Write("/sys/devices/system/cpu/online", "0-3\n");
    Write("/sys/devices/system/node/node0/cpulist", "0-3\n");
    Write("/proc/meminfo", "HugePages_Total:     0\n");
    Write("/dev/net/tun", "");
    Write("/sys/class/net/br0/bridge/bridge_id", "");
    Write("/sys/class/net/eth0/flags", "0x1003\n");
    for (const char* folder : {"/run", "/var/lib", "/run/vms"}) fs::create_directories(dir.path() + folder);
    PortConfig port;
    port.name = "vm1";
    port.socket = "/run/vms/vm1.sock";
    port.uplinks = {{UplinkKind::kTap, "t1", "br0"}, {UplinkKind::kAfPacket, "eth0", ""}};
    config.ports = {port};
  }
  void Write(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(dir.path() + path).parent_path());
    std::ofstream(dir.path() + path) << text;
  }
  // A device node that is one of the machine's own here, called `name` in sysfs and of that class there.
  void Node(const std::string& path, const std::string& real, const std::string& name, const std::string& subsystem) {
    struct stat st {};
    ASSERT_EQ(::stat(real.c_str(), &st), 0);
    fs::create_symlink(real, dir.path() + path);
    const std::string device = "/sys/devices/virtual/" + name, links = dir.path() + "/sys/dev/char";
    fs::create_directories(dir.path() + device);
    fs::create_directories(links);
    fs::create_symlink("../.." + device.substr(4), absl::StrCat(links, "/", major(st.st_rdev), ":", minor(st.st_rdev)));
    if (!subsystem.empty()) fs::create_symlink("../../../../class/" + subsystem, dir.path() + device + "/subsystem");
  }
  std::vector<std::string> Missing(PreflightFor program = PreflightFor::kDaemon) {
    return Preflight(config, program, host);
  }

  fakes::TempDir dir;
  PreflightHost host;
  Config config;
};

TEST_F(PreflightTest, NothingIsMissing) {
  EXPECT_THAT(Missing(), IsEmpty());
  EXPECT_THAT(Missing(PreflightFor::kKeeper), IsEmpty());
}

TEST_F(PreflightTest, EveryPollerCpuThatCannotBeUsedIsNamed) {
  config.daemon.poller_cpus = {1, 9, 3};  // there; not on this machine; not allowed
  EXPECT_THAT(Missing(), ElementsAre(StartsWith("daemon.pollers: CPU 9"), StartsWith("daemon.pollers: CPU 3")));
  EXPECT_THAT(Missing(PreflightFor::kKeeper), IsEmpty());
}

TEST_F(PreflightTest, AllThatUplinksStandOn) {
  fs::remove(dir.path() + "/dev/net/tun");
  config.ports[0].uplinks = {{UplinkKind::kTap, "t1", "br9"},
                             {UplinkKind::kTap, "t2", "eth0"},
                             {UplinkKind::kAfXdp, "eth9", ""},
                             {UplinkKind::kTap, "eth0", ""}};
  const std::string tun = ": /dev/net/tun is missing; run: modprobe tun";
  EXPECT_THAT(
      Missing(),
      ElementsAre("port vm1: uplink 0" + tun,
                  "port vm1: uplink 0: bridge br9 is missing; run: ip link add br9 type bridge && "
                  "ip link set br9 up",
                  "port vm1: uplink 1" + tun, "port vm1: uplink 1: eth0 is not a bridge; name one, or leave bridge out",
                  StartsWith("port vm1: uplink 2: network interface eth9 is missing; "), "port vm1: uplink 3" + tun,
                  "port vm1: uplink 3: eth0 is there but is not a tap; choose another name"));
}

TEST_F(PreflightTest, HardwareThatUplinksNeed) {
  config.ports[0].uplinks = {{UplinkKind::kVf, "0000:3b:02.1", ""}, {UplinkKind::kVirtioUser, "vu0", ""}};
  EXPECT_THAT(Missing(), ElementsAre(StartsWith("port vm1: uplink 0: PCI device 0000:3b:02.1 does not exist; "),
                                     "port vm1: uplink 1: /dev/vhost-net is missing; run: modprobe vhost_net"));
  Write("/dev/vhost-net", "");
  const std::string device = dir.path() + "/sys/bus/pci/devices/0000:3b:02.1/";
  fs::create_directories(device);
  EXPECT_THAT(Missing(), ElementsAre(StartsWith("port vm1: uplink 0: PCI device 0000:3b:02.1 is not a VF; ")));
  fs::create_symlink("../0000:3b:00.0", device + "physfn");
  fs::create_symlink("../../../kernel/iommu_groups/7", device + "iommu_group");
  EXPECT_THAT(Missing(),
              ElementsAre(StartsWith("port vm1: uplink 0: PCI device 0000:3b:02.1 is bound to no driver, ")));
  config.ports[0].uplinks[0].bind = true;
  EXPECT_THAT(Missing(), IsEmpty());
}

TEST_F(PreflightTest, AVhostVdpaNodeThatIsMissingOrNone) {
  config.ports[0].uplinks = {{UplinkKind::kVhostVdpa, "/dev/vhost-vdpa-0", ""}};
  EXPECT_THAT(Missing(), ElementsAre(StartsWith("port vm1: uplink 0: /dev/vhost-vdpa-0 is missing; run: modprobe ")));
  fs::create_directories(dir.path() + "/sys/bus/vdpa/drivers/vhost_vdpa");
  EXPECT_THAT(Missing(), ElementsAre(StartsWith("port vm1: uplink 0: /dev/vhost-vdpa-0 is missing; run: vdpa dev ")));
  Write("/dev/vhost-vdpa-0", "");
  Write("/dev/vhost-vdpa-0", "");
  EXPECT_THAT(Missing(), ElementsAre("port vm1: uplink 0: /dev/vhost-vdpa-0 is an ordinary file, not a vhost-vdpa "
                                     "device; name a vhost-vdpa device: there is /dev/vhost-vdpa-0 (`vdpa dev show` "
                                     "lists what is behind)"));
}

TEST_F(PreflightTest, AVhostVdpaDeviceAndOnesThatAreNone) {
  const auto names = [&](const std::string& device) {
    config.ports[0].uplinks = {{UplinkKind::kVhostVdpa, device, ""}};
  };
  Node("/dev/vhost-vdpa-3", "/dev/zero", "vduse/vduse0/vhost-vdpa-3", "");
  names("/dev/vhost-vdpa-3");
  EXPECT_THAT(Missing(), IsEmpty());
  Node("/dev/null", "/dev/null", "mem/null", "mem");
  names("/dev/null");
  EXPECT_THAT(Missing(), ElementsAre("port vm1: uplink 0: /dev/null is a device of class mem (null), not a vhost-vdpa "
                                     "device; name a vhost-vdpa device: there is /dev/vhost-vdpa-3 (`vdpa dev show` "
                                     "lists what is behind)"));
  names("/dev/net");
  EXPECT_THAT(Missing(), ElementsAre(HasSubstr("/dev/net is a folder, not a vhost-vdpa device; name ")));
  names("/dev/net/tun/x");
  EXPECT_THAT(Missing(), ElementsAre(HasSubstr("/dev/net/tun/x cannot be looked at (Not a directory); name ")));
}

// The configuration knows no symbolic links; the host does.
TEST_F(PreflightTest, OneVhostVdpaDeviceByTwoNames) {
  Node("/dev/vhost-vdpa-3", "/dev/zero", "vduse/vduse0/vhost-vdpa-3", "");
  fs::create_symlink("vhost-vdpa-3", dir.path() + "/dev/nic-of-vm2");
  config.ports[0].uplinks = {{UplinkKind::kVhostVdpa, "/dev/vhost-vdpa-3", ""}};
  config.ports.push_back(config.ports[0]);
  config.ports[1].name = "vm2";
  config.ports[1].uplinks[0].device = "/dev/nic-of-vm2";
  EXPECT_THAT(Missing(), ElementsAre("port vm2: uplink 0: /dev/nic-of-vm2 is the device of port vm1: uplink 0 "
                                     "(/dev/vhost-vdpa-3); an uplink belongs to one port: name another device"));
}

TEST_F(PreflightTest, VdpaDevices) {
  const auto names = [&](const std::string& device) { config.ports[0].uplinks = {{UplinkKind::kVdpa, device, ""}}; };
  names("0000:3b:02.1,vdpa=1");
  EXPECT_THAT(Missing(), ElementsAre(StartsWith("port vm1: uplink 0: PCI device 0000:3b:02.1 does not exist; ")));
  const std::string device = "/sys/bus/pci/devices/0000:3b:02.1/";
  Write(device + "class", "0x060000\n");
  EXPECT_THAT(Missing(), ElementsAre(HasSubstr("is not a network device (PCI class 0x0600, host bridge)")));
  Write(device + "class", "0x020000\n");
  EXPECT_THAT(Missing(), ElementsAre(HasSubstr("0000:3b:02.1 is bound to no driver, not to one that DPDK's vDPA")));
  fs::create_symlink("../../../bus/pci/drivers/mlx5_core", dir.path() + device + "driver");
  EXPECT_THAT(Missing(), IsEmpty());
  names("auxiliary:mlx5_core.sf.2");  // DPDK alone knows of those
  EXPECT_THAT(Missing(), IsEmpty());
}

TEST_F(PreflightTest, HugepagesWhereTheyAreDemanded) {
  config.daemon.memory = DaemonConfig::Memory::kHugepages;
  EXPECT_THAT(Missing(), ElementsAre(StartsWith("daemon.memory: there are no hugepages; ")));
  Write("/proc/meminfo", "MemTotal: 9 kB\nHugePages_Total:     512\n");
  EXPECT_THAT(Missing(), IsEmpty());
}

TEST_F(PreflightTest, Folders) {
  fs::remove(dir.path() + "/run/vms");
  Write("/var/file", "");
  config.daemon.state_dir = "/var/file/state";
  config.daemon.run_dir = "/nowhere/yet/everport";  // made below what is there
  EXPECT_THAT(Missing(),
              ElementsAre("daemon.state_dir: /var/file is not a folder; move it away, or name another",
                          "port vm1: socket folder /run/vms is missing; run: install -d -g everport -m 0770 /run/vms"));
  EXPECT_THAT(Missing(PreflightFor::kKeeper), ElementsAre(HasSubstr("socket folder /run/vms is missing")));
}

TEST_F(PreflightTest, FolderThatMayNotBeWritten) {
  fs::permissions(dir.path(), fs::perms(0755));
  fs::permissions(dir.path() + "/run", fs::perms(0555));
  const bool root = ::geteuid() == 0;  // to whom all is open
  ASSERT_TRUE(!root || ::seteuid(65534) == 0);
  const auto missing = Missing(PreflightFor::kKeeper);
  ASSERT_TRUE(!root || ::seteuid(0) == 0);
  EXPECT_THAT(missing, ElementsAre("daemon.run_dir: /run may not be written (Permission denied); run as root, or name "
                                   "another folder"));
}

}  // namespace
}  // namespace everport
