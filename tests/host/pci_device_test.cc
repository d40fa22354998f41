// PCI devices below a folder that stands for the host, with a kernel that binds drivers.
#include "backend/host/pci_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "tests/fakes/temp_dir.h"

namespace everport {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kPf[] = "0000:01:00.0";
constexpr char kVf[] = "0000:01:10.1";

class PciDeviceTest : public ::testing::Test {
 protected:
  PciDeviceTest() {
    Device(kPf, "igb", 12, "0x020000");
    Device(kVf, "igbvf", 13, "0x020000");
    fs::create_directories(Path(kPf, "net/eth0"));
    fs::create_directories(Path(kVf, "net/eth7"));
    fs::create_symlink("../0000:01:10.0", Path(kPf, "virtfn0"));
    fs::create_symlink("../0000:01:10.1", Path(kPf, "virtfn1"));
    fs::create_symlink("../0000:01:00.0", Path(kVf, "physfn"));
    fs::create_directories(Root() + "/sys/bus/pci/drivers/vfio-pci");
    Write("/dev/vfio/vfio", "");
    Write("/dev/vfio/13", "");
  }
  std::string Root() const { return dir_.path(); }
  std::string Path(const std::string& address, const std::string& file) const {
    return Root() + "/sys/bus/pci/devices/" + address + "/" + file;
  }
  void Write(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(Root() + path).parent_path());
    std::ofstream(Root() + path) << text;
  }
  void Device(const std::string& address, const std::string& driver, int group, const std::string& pci_class) {
    Write("/sys/bus/pci/devices/" + address + "/class", pci_class + "\n");
    const std::string of_group = "/sys/kernel/iommu_groups/" + std::to_string(group);
    fs::create_directories(Root() + of_group + "/devices");
    fs::create_symlink("../../../.." + of_group, Path(address, "iommu_group"));
    fs::create_symlink("../../../../devices/" + address, Root() + of_group + "/devices/" + address);
    SetDriver(address, driver);
  }
  void SetDriver(const std::string& address, const std::string& driver) {
    fs::remove(Path(address, "driver"));
    if (!driver.empty()) fs::create_symlink("../../../bus/pci/drivers/" + driver, Path(address, "driver"));
  }
  std::string Said(bool bind = false) { return std::string(PrepareVf(Root(), kVf, bind, kernel_).status().message()); }

  fakes::TempDir dir_;
  std::vector<std::string> written_, loaded_;
  absl::Status write_status_, load_status_;
  bool binds_ = true;
  const KernelActions kernel_ = {[this](const std::string& path, const std::string& text) {
                                   const std::string file = path.substr(Root().size());
                                   written_.push_back(file + "=" + text);
                                   if (absl::EndsWith(file, "/unbind")) SetDriver(text, "");
                                   if (absl::EndsWith(file, "/drivers_probe") && binds_) SetDriver(text, "vfio-pci");
                                   return write_status_;
                                 },
                                 [this](const std::string& module) {
                                   loaded_.push_back(module);
                                   return load_status_;
                                 }};
};

TEST_F(PciDeviceTest, PfThatIsSetDownIsSeenByItsFlags) {
  const auto vf = ReadPciDevice(Root(), kVf);
  ASSERT_TRUE(vf.ok()) << vf.status();
  EXPECT_FALSE(PfIsSetDown(Root(), *vf)) << "nothing is known of it";
  Write("/sys/class/net/eth0/flags", "0x1003\n");
  EXPECT_FALSE(PfIsSetDown(Root(), *vf));
  Write("/sys/class/net/eth0/flags", "0x1002\n");
  EXPECT_TRUE(PfIsSetDown(Root(), *vf));
}

TEST_F(PciDeviceTest, IsReadWithItsPfAndGroup) {
  const auto vf = ReadPciDevice(Root(), kVf);
  ASSERT_TRUE(vf.ok()) << vf.status();
  EXPECT_EQ(vf->driver, "igbvf");
  EXPECT_EQ(vf->pf, kPf);
  EXPECT_EQ(vf->pf_interface, "eth0");
  EXPECT_EQ(vf->interface, "eth7");
  EXPECT_EQ(vf->vf_index, 1);
  EXPECT_EQ(vf->iommu_group, 13);
  EXPECT_THAT(vf->group_mates, IsEmpty());
}

TEST_F(PciDeviceTest, WhatIsNoNetworkDeviceIsToldByItsClass) {
  Device("0000:00:00.0", "", 1, "0x060000");
  Device("0000:00:02.0", "nvme", 2, "0x010802");
  for (const auto& [address, what] : {std::pair("0000:00:00.0", "(PCI class 0x0600, host bridge)"),
                                      std::pair("0000:00:02.0", "(PCI class 0x0108, storage)")}) {
    const auto device = ReadPciDevice(Root(), address);
    ASSERT_TRUE(device.ok()) << device.status();
    for (const absl::Status& status : {CheckVf(*device), CheckVdpa(*device)}) {
      const std::string said(status.message());
      EXPECT_THAT(said,
                  HasSubstr(std::string("PCI device ") + address + " is not a network device " + what + "; name "));
      EXPECT_THAT(said, Not(HasSubstr("af_xdp")));
    }
  }
}

TEST_F(PciDeviceTest, BoundToVfioItWillDo) {
  SetDriver(kVf, "vfio-pci");
  EXPECT_EQ(Said(), "");
  EXPECT_EQ(Said(true), "");
  EXPECT_THAT(written_, IsEmpty());
}

TEST_F(PciDeviceTest, VfsOfMellanoxKeepTheirDriver) {
  SetDriver(kVf, "mlx5_core");
  EXPECT_EQ(Said(true), "");
  EXPECT_THAT(written_, IsEmpty());
}

TEST_F(PciDeviceTest, ThatDoesNotExistIsNamed) {
  const auto none = PrepareVf(Root(), "0000:09:00.0", true, kernel_);
  EXPECT_TRUE(absl::IsNotFound(none.status()));
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("PCI device 0000:09:00.0 does not exist; "));
}

TEST_F(PciDeviceTest, PhysicalFunctionIsNotTaken) {
  const auto pf = PrepareVf(Root(), kPf, true, kernel_);
  EXPECT_THAT(std::string(pf.status().message()), HasSubstr("PCI device 0000:01:00.0 is not a VF; "));
  EXPECT_THAT(written_, IsEmpty());
}

TEST_F(PciDeviceTest, AnotherDriverIsNamedWithTheMend) {
  EXPECT_THAT(Said(), HasSubstr("PCI device 0000:01:10.1 is bound to igbvf (eth7), not to vfio-pci; write bind = true "
                                "at the uplink, or run: modprobe vfio-pci; "));
  EXPECT_THAT(Said(), HasSubstr("echo 0000:01:10.1 > driver/unbind; "));
  SetDriver(kVf, "");
  EXPECT_THAT(Said(), HasSubstr("0000:01:10.1 is bound to no driver"));
  EXPECT_THAT(Said(), testing::Not(HasSubstr("unbind")));
  EXPECT_THAT(written_, IsEmpty());
}

TEST_F(PciDeviceTest, AHostsOwnNicIsNotTakenFromItUnsaid) {
  const auto said = [&](const char* address) {
    const auto device = ReadPciDevice(Root(), address);
    return std::string(device.ok() ? CheckVdpa(*device).message() : device.status().message());
  };
  Device("0000:00:03.0", "virtio-pci", 3, "0x020000");
  EXPECT_THAT(
      said("0000:00:03.0"),
      HasSubstr("But it is no VF: it is a NIC of this host's own, which would lose it; name another device, or, "
                "if nothing here needs it, run: modprobe vfio-pci; "));
  EXPECT_THAT(said(kVf), HasSubstr("others vfio-pci. Run: modprobe vfio-pci; "));
}

TEST_F(PciDeviceTest, BindTakesItFromItsDriver) {
  EXPECT_EQ(Said(true), "");
  const std::string device = "/sys/bus/pci/devices/0000:01:10.1/";
  EXPECT_THAT(written_, ElementsAre(device + "driver_override=vfio-pci", device + "driver/unbind=0000:01:10.1",
                                    "/sys/bus/pci/drivers_probe=0000:01:10.1"));
  EXPECT_THAT(loaded_, IsEmpty());
}

TEST_F(PciDeviceTest, BindLoadsTheModule) {
  fs::remove_all(Root() + "/sys/bus/pci/drivers/vfio-pci");
  SetDriver(kVf, "");
  EXPECT_EQ(Said(true), "");
  EXPECT_THAT(loaded_, ElementsAre("vfio-pci"));
  EXPECT_EQ(written_.size(), 2u);  // nothing to unbind
}

TEST_F(PciDeviceTest, BindSaysWhatTheKernelDidNotDo) {
  binds_ = false;
  EXPECT_THAT(Said(true), HasSubstr("not bound to vfio-pci: the kernel left it with no driver; run by hand: modprobe"));
  write_status_ = absl::PermissionDeniedError("no");
  EXPECT_THAT(Said(true), HasSubstr("not bound to vfio-pci: no; "));
  fs::remove_all(Root() + "/sys/bus/pci/drivers/vfio-pci");
  load_status_ = absl::NotFoundError("no such module");
  EXPECT_THAT(Said(true), HasSubstr("not bound to vfio-pci: no such module; "));
}

TEST_F(PciDeviceTest, SharedGroupIsRefusedUnlessWithBridges) {
  const std::string group = "/sys/kernel/iommu_groups/13/devices/";
  Write("/sys/bus/pci/devices/0000:00:1c.0/class", "0x060400\n");
  fs::create_symlink("x", Root() + group + "0000:00:1c.0");
  EXPECT_EQ(Said(true), "");
  Write("/sys/bus/pci/devices/0000:01:10.3/class", "0x020000\n");
  SetDriver("0000:01:10.3", "igbvf");
  fs::create_symlink("x", Root() + group + "0000:01:10.3");
  Write("/sys/bus/pci/devices/0000:01:10.5/class", "0x020000\n");
  fs::create_symlink("x", Root() + group + "0000:01:10.5");
  EXPECT_THAT(Said(true), HasSubstr("0000:01:10.1 shares IOMMU group 13 with 0000:01:10.3 (igbvf), 0000:01:10.5 (no "
                                    "driver), so one could write to the other's memory; "));
}

TEST_F(PciDeviceTest, NeedsAnIommu) {
  fs::remove(Path(kVf, "iommu_group"));
  EXPECT_THAT(Said(true), HasSubstr("0000:01:10.1 has no IOMMU in front of it; "));
}

TEST_F(PciDeviceTest, NeedsVfiosFiles) {
  SetDriver(kVf, "vfio-pci");
  fs::remove(Root() + "/dev/vfio/13");
  EXPECT_THAT(Said(), HasSubstr("/dev/vfio/13 is missing; "));
  fs::create_symlink("13", Root() + "/dev/vfio/13");  // cannot be opened by anybody, not even root
  EXPECT_THAT(Said(), HasSubstr("everportd may not open /dev/vfio/13 ("));
}

}  // namespace
}  // namespace everport
