// What is read from libvirt's XML. The domains are libvirt 11.3's own words (virsh dumpxml), shortened.
#include "migration/domain_xml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <climits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace everport::migration {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kDomain[] = R"(<domain type='qemu' id='1' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>vm1</name>
  <uuid>81d4ba72-fb8f-40ab-a295-998aa46791eb</uuid>
  <metadata>
    <app:about xmlns:app="http://example.org/app">  two  spaces &amp; an &lt;escape&gt; <!-- a comment --></app:about>
  </metadata>
  <memory unit='KiB'>262144</memory>
  <memoryBacking>
    <source type='memfd'/>
    <access mode='shared'/>
  </memoryBacking>
  <os>
    <type arch='x86_64' machine='pc-q35-10.0'>hvm</type>
    <cmdline>console=ttyS0  quiet</cmdline>
  </os>
  <cpu mode='custom' match='exact' check='full'>
    <model fallback='forbid'>qemu64</model>
  </cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <interface type='vhostuser'>
      <mac address='52:54:00:00:00:02'/>
      <source type='unix' path='/run/vms/vm1-net0.sock' mode='server'/>
      <model type='virtio'/>
      <alias name='net0'/>
    </interface>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:03'/>
      <source bridge='br0'/>
    </interface>
    <interface type='vhostuser'>
      <mac address='52:54:00:00:00:04'/>
      <source type='unix' path='/run/vms/vm1-net1.sock' mode='client'/>
      <driver queues='2'/>
      <mtu size='1400'/>
    </interface>
    <channel type='unix'>
      <source mode='bind' path='/run/vms/vm1-net0.sock'/>
    </channel>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-nodefaults'/>
  </qemu:commandline>
</domain>
)";

Domain Parse(const std::string& xml) {
  const auto domain = ParseDomain(xml);
  EXPECT_TRUE(domain.ok()) << domain.status();
  return domain.value_or(Domain{});
}

std::string With(const std::string& from, const std::string& to) {
  const std::string changed = absl::StrReplaceAll(kDomain, {{from, to}});
  EXPECT_NE(changed, kDomain);
  return changed;
}

TEST(DomainXmlTest, ReadsTheVhostUserInterfaces) {
  const Domain domain = Parse(kDomain);
  EXPECT_EQ(domain.name, "vm1");
  EXPECT_TRUE(domain.shared_memory);
  EXPECT_THAT(domain.nics, ElementsAre(Nic{"/run/vms/vm1-net0.sock", "52:54:00:00:00:02", true, 1, 0},
                                       Nic{"/run/vms/vm1-net1.sock", "52:54:00:00:00:04", false, 2, 1400}));
  EXPECT_THAT(Parse(With("vhostuser", "user")).nics, IsEmpty());
}

TEST(DomainXmlTest, ANumberThatIsNoneIsOutOfAnyRange) {
  for (const char* text : {"", "-1", "x", "99999999999", "1e3"}) {
    const Domain domain = Parse(With("queues='2'", absl::StrCat("queues='", text, "'")));
    EXPECT_EQ(domain.nics[1].queue_pairs, UINT_MAX) << text;
  }
}

TEST(DomainXmlTest, SharedMemoryIsOfTheDomainOrOfEachCell) {
  EXPECT_FALSE(Parse(With("<access mode='shared'/>", "")).shared_memory);
  EXPECT_FALSE(Parse(With("<access mode='shared'/>", "<access mode='private'/>")).shared_memory);
  EXPECT_FALSE(Parse(With("<access mode='shared'/>", "<hugepages/>")).shared_memory);
  const auto cells = [](const std::string& first, const std::string& second, bool all) {
    const std::string numa = absl::StrCat("<numa><cell id='0' cpus='0' memory='1'", first,
                                          "/><cell id='1' cpus='1' memory='1'", second, "/></numa>");
    std::string xml = absl::StrReplaceAll(kDomain, {{"<model fallback='forbid'>qemu64</model>", numa}});
    if (!all) xml = absl::StrReplaceAll(xml, {{"<access mode='shared'/>", ""}});
    return Parse(xml).shared_memory;
  };
  EXPECT_TRUE(cells(" memAccess='shared'", " memAccess='shared'", false));
  EXPECT_FALSE(cells(" memAccess='shared'", "", false));
  EXPECT_TRUE(cells("", "", true));
  EXPECT_FALSE(cells("", " memAccess='private'", true));
}

TEST(DomainXmlTest, RewritesTheSocketsAndNothingElse) {
  const auto changed = WithSockets(kDomain, {{"/run/vms/vm1-net0.sock", "/srv/a&b/0.sock"}, {"/unknown", "/x"}});
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_THAT(*changed, HasSubstr("path=\"/srv/a&amp;b/0.sock\" mode=\"server\""));
  EXPECT_THAT(*changed, HasSubstr("path=\"/run/vms/vm1-net1.sock\" mode=\"client\""));
  EXPECT_THAT(*changed, HasSubstr("mode=\"bind\" path=\"/run/vms/vm1-net0.sock\""));  // a channel's
  // All else is as it was, but for the quotes.
  const auto back = WithSockets(*changed, {{"/srv/a&b/0.sock", "/run/vms/vm1-net0.sock"}});
  ASSERT_TRUE(back.ok());
  const auto plain = [](const std::string& xml) { return absl::StrReplaceAll(xml, {{"'", "\""}, {" />", "/>"}}); };
  EXPECT_EQ(plain(*back) + "\n", plain(kDomain));
}

TEST(DomainXmlTest, WhatIsNoDomainIsRefused) {
  for (const std::string& xml :
       {std::string(), std::string("<domain"), std::string("<network/>"), std::string("<domain><name>x</domain>")}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(ParseDomain(xml).status())) << xml;
    EXPECT_TRUE(absl::IsFailedPrecondition(WithSockets(xml, {}).status())) << xml;
  }
}

// pugixml knows no entities but XML's own: a document cannot grow, nor read a file.
TEST(DomainXmlTest, EntitiesAreNotExpanded) {
  const std::string xml =
      absl::StrCat("<!DOCTYPE domain [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>", "<domain><name>&e;</name></domain>");
  const auto domain = ParseDomain(xml);
  ASSERT_TRUE(domain.ok()) << domain.status();
  EXPECT_THAT(domain->name, Not(HasSubstr("root")));
}

}  // namespace
}  // namespace everport::migration
