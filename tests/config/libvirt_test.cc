// [libvirt]: what it says, and what is wrong with one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "backend/config/config.h"

namespace everport {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kUplink[] = "[[libvirt.uplink]]\nkind = \"tap\"\ndevice = \"ep-{port}\"\nbridge = \"br0\"\n";

absl::StatusOr<Config> Parse(const std::string& keys, const std::string& uplink = kUplink) {
  return ParseConfig(absl::StrCat("[libvirt]\n", keys, uplink), "f.toml");
}

std::string Fault(const std::string& keys, const std::string& uplink = kUplink) {
  const auto config = Parse(keys, uplink);
  return config.ok() ? "(none)" : std::string(config.status().message());
}

TEST(LibvirtConfig, IsOffWithoutItsTable) {
  const auto config = ParseConfig("", "f.toml");
  ASSERT_TRUE(config.ok());
  EXPECT_FALSE(config->libvirt.has_value());
}

TEST(LibvirtConfig, HasDefaults) {
  const auto config = Parse("socket_folder = \"/run/vms/\"\n");
  ASSERT_TRUE(config.ok()) << config.status();
  LibvirtConfig wanted;
  wanted.socket_folder = "/run/vms";
  wanted.uplinks = {{UplinkKind::kTap, "ep-{port}", "br0"}};
  EXPECT_EQ(*config->libvirt, wanted);
}

TEST(LibvirtConfig, HasWhatIsWritten) {
  const auto config = Parse(
      "uri = \"qemu+unix:///system?socket=/x\"\nsocket_folder = \"/v\"\ncontract = \"minimal-1\"\nmtu = 1400\n"
      "failback_delay_ms = 7\n");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->libvirt->uri, "qemu+unix:///system?socket=/x");
  EXPECT_EQ(config->libvirt->contract, "minimal-1");
  EXPECT_EQ(config->libvirt->mtu, 1400);
  EXPECT_EQ(config->libvirt->failback_delay_ms, 7u);
}

TEST(LibvirtConfig, NamesWhatIsWrong) {
  const std::string folder = "socket_folder = \"/v\"\n";
  EXPECT_THAT(Fault(""), HasSubstr("libvirt.socket_folder: is missing; name the folder"));
  EXPECT_THAT(Fault("socket_folder = \"v\"\n"), HasSubstr("f.toml:2: libvirt.socket_folder: \"v\" is not an absolute"));
  EXPECT_THAT(Fault("socket_folder = \"/a/../v\"\n"), HasSubstr("is not written the plain way"));
  EXPECT_THAT(Fault("socket_folder = \"/a//v\"\n"), HasSubstr("is not written the plain way"));
  EXPECT_THAT(Fault(folder + "uri = \"\"\n"), HasSubstr("libvirt.uri: \"\" is not libvirt's URI; write"));
  EXPECT_THAT(Fault(folder + "contract = \"no\"\n"), HasSubstr("libvirt.contract: \"no\" is not a feature contract"));
  EXPECT_THAT(Fault(folder + "mtu = 3\n"), HasSubstr("libvirt.mtu: 3 is out of range"));
  EXPECT_THAT(Fault(folder + "folder = 1\n"), HasSubstr("libvirt.folder"));
  EXPECT_THAT(Fault(folder, ""), HasSubstr("libvirt.uplink: there is none; add at least one [[libvirt.uplink]]"));
}

TEST(LibvirtConfig, EachInterfaceHasADeviceOfItsOwn) {
  const std::string folder = "socket_folder = \"/v\"\n";
  const auto fault = [&](const std::string& kind, const std::string& device) {
    return Fault(folder, absl::StrCat("[[libvirt.uplink]]\nkind = \"", kind, "\"\ndevice = \"", device, "\"\n"));
  };
  EXPECT_EQ(fault("tap", "e{mac}"), "(none)");
  EXPECT_EQ(fault("tap", "{domain}-{n}"), "(none)");
  EXPECT_EQ(fault("vdev", "net_memif{port},role=server"), "(none)");
  EXPECT_THAT(fault("tap", "ep0"), AllOf(HasSubstr("libvirt.uplink[0].device: \"ep0\" is one device"),
                                         HasSubstr("put {port} or {mac} into it")));
  EXPECT_THAT(fault("tap", "{domain}"), HasSubstr("is one device"));
  EXPECT_THAT(fault("tap", "{port}{vm}"), HasSubstr("holds braces"));
  EXPECT_THAT(fault("port", "{port}"), HasSubstr("a wire has two ports"));
  EXPECT_THAT(fault("tapp", "{port}"), HasSubstr("libvirt.uplink[0].kind"));
  EXPECT_THAT(fault("vf", "{port}"), HasSubstr("libvirt.uplink[0].device: \"p\" is not a PCI address"));
}

TEST(LibvirtConfig, FillsUplinks) {
  const std::vector<UplinkConfig> templates = {{UplinkKind::kTap, "{mac}", "br-{domain}"},
                                               {UplinkKind::kVdev, "net_memif{n},id={port}", ""}};
  const auto uplinks =
      FillUplinks(templates, {.port = "vm1-net0", .domain = "vm1", .mac = "52:54:00:ab:00:02", .number = 3});
  ASSERT_TRUE(uplinks.ok()) << uplinks.status();
  EXPECT_EQ((*uplinks)[0].device, "525400ab0002");
  EXPECT_EQ((*uplinks)[0].bridge, "br-vm1");
  EXPECT_EQ((*uplinks)[1].device, "net_memif3,id=vm1-net0");
}

TEST(LibvirtConfig, ADomainsNameIsNoArgumentOfADriver) {
  const std::string name = "x,iface=/dev/../etc{port}";
  const auto uplinks = FillUplinks({{UplinkKind::kVdev, "net_tap0,iface={domain}-{n}", ""}},
                                   {.port = "p", .domain = name, .mac = "", .number = 0});
  EXPECT_THAT(std::string(uplinks.status().message()),
              AllOf(HasSubstr("the domain's name \"x,iface="), HasSubstr("use {port} or {mac} there")));
  EXPECT_TRUE(
      FillUplinks({{UplinkKind::kTap, "{port}", ""}}, {.port = "p", .domain = name, .mac = "", .number = 0}).ok());
}

}  // namespace
}  // namespace everport
