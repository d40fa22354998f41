// Which ports domains are to have, decided on values.
#include "backend/service/libvirt_ports.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace everport {
namespace {

using migration::Nic;
using migration::SeenDomain;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr char kMac[] = "52:54:00:00:00:02";

Nic NicAt(const std::string& file, const std::string& mac = kMac) {
  return {.socket = "/run/vms/" + file, .mac = mac};
}

SeenDomain DomainOf(const std::string& name, std::vector<Nic> nics) {
  SeenDomain domain;
  domain.uuid = "uuid-of-" + name;
  domain.domain.name = name;
  domain.domain.nics = std::move(nics);
  return domain;
}

SeenDomain Unreadable(const std::string& name) {
  SeenDomain domain = DomainOf(name, {});
  domain.status = absl::DeadlineExceededError("libvirt does not give its XML");
  return domain;
}

class LibvirtPorts : public ::testing::Test {
 protected:
  LibvirtPorts() {
    config_.socket_folder = "/run/vms";
    config_.uplinks = {{UplinkKind::kTap, "ep-{port}", "br0"}};
  }

  // What is to be, which is then what there is.
  DomainPortsPlan Plan(std::vector<SeenDomain> domains) {
    DomainPortsPlan plan = PlanDomainPorts({config_, BuiltInContracts(), domains, made_, others_, left_alone_,
                                            [this](const std::string& path) { return path == symlink_; },
                                            [this](const std::string& name) { return guests_.count(name) > 0; }});
    made_ = plan.made;
    return plan;
  }
  std::vector<std::string> Made() const {
    std::vector<std::string> names;
    for (const DomainPort& port : made_) names.push_back(port.config.name);
    return names;
  }

  LibvirtConfig config_;
  std::vector<DomainPort> made_;
  std::vector<PortConfig> others_;
  std::set<std::string> left_alone_, guests_;
  std::string symlink_;
};

TEST_F(LibvirtPorts, AnInterfaceInTheFolderGetsAPort) {
  Nic nic = NicAt("vm1-net0.sock", "52:54:00:00:00:AB");
  nic.queue_pairs = 2;
  const DomainPortsPlan plan = Plan({DomainOf("vm1", {nic})});
  EXPECT_THAT(plan.add, ElementsAre("vm1-net0"));
  EXPECT_THAT(plan.refused, IsEmpty());
  ASSERT_THAT(plan.made, SizeIs(1));
  EXPECT_EQ(plan.made[0].domain, "vm1");
  const PortConfig& port = plan.made[0].config;
  EXPECT_EQ(port.socket, "/run/vms/vm1-net0.sock");
  EXPECT_EQ(port.mac, "52:54:00:00:00:ab");
  EXPECT_EQ(port.queue_pairs, 2);
  EXPECT_EQ(port.mtu, 1500);
  EXPECT_EQ(port.uplinks, (std::vector<UplinkConfig>{{UplinkKind::kTap, "ep-vm1-net0", "br0"}}));
}

TEST_F(LibvirtPorts, NothingHappensTwice) {
  const auto domains =
      std::vector{DomainOf("vm1", {NicAt("a.sock")}), DomainOf("vm2", {NicAt("b.sock", "52:54:00:00:00:03")})};
  EXPECT_THAT(Plan(domains).add, ElementsAre("a", "b"));
  const DomainPortsPlan plan = Plan(domains);
  EXPECT_EQ(plan,
            (DomainPortsPlan{.made = made_, .remove = {}, .linger = {}, .replace = {}, .add = {}, .refused = {}}));
}

TEST_F(LibvirtPorts, ItGoesWithItsDomain) {
  Plan({DomainOf("vm1", {NicAt("a.sock")}), DomainOf("vm2", {NicAt("b.sock", "52:54:00:00:00:03")})});
  EXPECT_THAT(Plan({DomainOf("vm2", {NicAt("b.sock", "52:54:00:00:00:03")})}).remove, ElementsAre("a"));
  EXPECT_THAT(Made(), ElementsAre("b"));
}

TEST_F(LibvirtPorts, ItGoesWithItsInterface) {
  Plan({DomainOf("vm1", {NicAt("a.sock"), NicAt("b.sock", "52:54:00:00:00:03")})});
  EXPECT_THAT(Plan({DomainOf("vm1", {NicAt("b.sock", "52:54:00:00:00:03")})}).remove, ElementsAre("a"));
}

TEST_F(LibvirtPorts, ItStaysWhileItsDomainCannotBeRead) {
  Plan({DomainOf("vm1", {NicAt("a.sock")})});
  EXPECT_THAT(Plan({Unreadable("vm1")}).remove, IsEmpty());
  EXPECT_THAT(Plan({Unreadable("vm2")}).remove, ElementsAre("a"));
}

// A copy of it, for one, that was never given a socket of its own.
TEST_F(LibvirtPorts, WhileItsDomainCannotBeReadNoOtherGetsItsSocket) {
  Plan({DomainOf("vm1", {NicAt("a.sock")})});
  SeenDomain copy = DomainOf("copy", {NicAt("a.sock", "52:54:00:00:00:03")});
  for (const bool active : {false, true}) {
    copy.active = active;
    const DomainPortsPlan plan = Plan({Unreadable("vm1"), copy});
    EXPECT_THAT(plan.replace, IsEmpty());
    ASSERT_THAT(plan.made, SizeIs(1));
    EXPECT_EQ(plan.made[0].config.mac, kMac);
    EXPECT_EQ(plan.made[0].domain, "vm1");
    EXPECT_THAT(plan.refused, ElementsAre(AllOf(HasSubstr("domain copy: interface \"52:54:00:00:00:03\""),
                                                HasSubstr("domain vm1, which cannot be read now, had that socket"))));
  }
  EXPECT_THAT(Plan({copy}).replace, ElementsAre("a"));
}

TEST_F(LibvirtPorts, ItStaysWhileAGuestIsThere) {
  Plan({DomainOf("vm1", {NicAt("a.sock")})});
  guests_ = {"a"};
  const DomainPortsPlan plan = Plan({});
  EXPECT_THAT(plan.linger, ElementsAre("a"));
  EXPECT_THAT(plan.remove, IsEmpty());
  EXPECT_THAT(Made(), ElementsAre("a"));
  guests_ = {};
  EXPECT_THAT(Plan({}).remove, ElementsAre("a"));
}

TEST_F(LibvirtPorts, ItStaysInAnotherFolder) {
  Plan({DomainOf("vm1", {NicAt("a.sock")})});
  config_.socket_folder = "/elsewhere";
  EXPECT_THAT(Plan({DomainOf("vm1", {NicAt("a.sock")})}).remove, IsEmpty());
  EXPECT_THAT(Made(), ElementsAre("a"));
}

TEST_F(LibvirtPorts, AnotherInterfaceOnThatSocketBeginsAnew) {
  Plan({DomainOf("vm1", {NicAt("a.sock")})});
  guests_ = {"a"};
  const DomainPortsPlan plan = Plan({DomainOf("vm2", {NicAt("a.sock", "52:54:00:00:00:09")})});
  EXPECT_THAT(plan.replace, ElementsAre("a"));
  EXPECT_THAT(plan.add, IsEmpty());
  EXPECT_EQ(made_[0].config.mac, "52:54:00:00:00:09");
  EXPECT_EQ(made_[0].domain, "vm2");
}

TEST_F(LibvirtPorts, TheSameInterfaceOfAnotherDomainGoesOn) {
  Plan({DomainOf("vm1", {NicAt("a.sock")})});
  const DomainPortsPlan plan = Plan({DomainOf("renamed", {NicAt("a.sock")})});
  EXPECT_THAT(plan.replace, IsEmpty());
  EXPECT_EQ(made_[0].domain, "renamed");
}

TEST_F(LibvirtPorts, WhatIsInForceStaysWhenTheConfigurationIsAnother) {
  Plan({DomainOf("vm1", {NicAt("a.sock")})});
  config_.mtu = 1400;
  config_.uplinks[0].bridge = "br1";
  EXPECT_THAT(Plan({DomainOf("vm1", {NicAt("a.sock")})}).replace, IsEmpty());
  EXPECT_EQ(made_[0].config.uplinks[0].bridge, "br0");
}

TEST_F(LibvirtPorts, OthersPortsAreLeftToThem) {
  PortConfig other;
  other.name = "mine";
  other.socket = "/run/vms/a.sock";
  other.uplinks = {{UplinkKind::kTap, "t0", ""}};
  other.mac = kMac;
  others_ = {other};
  const DomainPortsPlan plan = Plan({DomainOf("vm1", {NicAt("a.sock")})});
  EXPECT_THAT(plan.add, IsEmpty());
  EXPECT_THAT(plan.refused, IsEmpty());
}

TEST_F(LibvirtPorts, ANameThatIsTakenIsRefused) {
  PortConfig other;
  other.name = "a";
  other.socket = "/elsewhere/a.sock";
  other.uplinks = {{UplinkKind::kTap, "t0", ""}};
  other.mac = "52:54:00:00:00:77";
  others_ = {other};
  EXPECT_THAT(
      Plan({DomainOf("vm1", {NicAt("a.sock"), NicAt("b.sock", "52:54:00:00:00:03")})}).refused,
      ElementsAre(AllOf(HasSubstr("domain vm1: interface \"52:54:00:00:00:02\" on \"/run/vms/a.sock\": no port:"),
                        HasSubstr("port a"))));
  EXPECT_THAT(Made(), ElementsAre("b"));
}

TEST_F(LibvirtPorts, WhatWasRemovedByHandStaysAway) {
  left_alone_ = {"/run/vms/a.sock"};
  EXPECT_THAT(Plan({DomainOf("vm1", {NicAt("a.sock")})}).add, IsEmpty());
}

TEST_F(LibvirtPorts, WhatLiesElsewhereIsNotOurs) {
  Nic elsewhere = NicAt("a.sock"), below = NicAt("sub/a.sock"), beside = NicAt("a.sock");
  elsewhere.socket = "/run/a.sock";
  beside.socket = "/run/vmsx/a.sock";
  const DomainPortsPlan plan = Plan({DomainOf("vm1", {elsewhere, below, beside})});
  EXPECT_THAT(plan.add, IsEmpty());
  EXPECT_THAT(plan.refused, IsEmpty());
}

TEST_F(LibvirtPorts, RefusalsNameDomainInterfaceCauseAndMend) {
  const auto refusal = [&](const Nic& nic, const std::string& domain = "vm1") {
    made_.clear();
    const DomainPortsPlan plan = Plan({DomainOf(domain, {nic})});
    EXPECT_THAT(plan.add, IsEmpty());
    EXPECT_THAT(plan.refused, SizeIs(1));
    return plan.refused.empty() ? "" : plan.refused[0];
  };
  EXPECT_THAT(refusal(NicAt("../../etc/a.sock")), HasSubstr("not written the plain way"));
  EXPECT_THAT(refusal(NicAt("/a.sock")), HasSubstr("not written the plain way"));
  EXPECT_THAT(refusal(NicAt("..")), HasSubstr("not written the plain way"));
  EXPECT_THAT(refusal(NicAt("")), HasSubstr("not written the plain way"));
  EXPECT_THAT(refusal(NicAt("a b.sock")),
              HasSubstr("called as its socket without .sock, and \"a b\" is not a port name; use 1 to 63"));
  EXPECT_THAT(refusal(NicAt(std::string(200, 'a'))), HasSubstr("is not a port name"));
  EXPECT_THAT(refusal(NicAt("twelve-letters.sock")),
              HasSubstr("\"ep-twelve-letters\" is not a network interface name"));
  EXPECT_THAT(refusal(NicAt("a.sock", "x")), HasSubstr("\"x\" is not a MAC address"));
  Nic nic = NicAt("a.sock");
  nic.queue_pairs = 65537;
  EXPECT_THAT(refusal(nic), HasSubstr("queue_pairs: 65535 is out of range; use 1 to 16"));
  nic = NicAt("a.sock");
  nic.server = false;
  EXPECT_THAT(refusal(nic), HasSubstr("QEMU is the client of that socket; write mode='server'"));
  symlink_ = "/run/vms/a.sock";
  EXPECT_THAT(refusal(NicAt("a.sock")), HasSubstr("its path is a symbolic link"));
  symlink_ = "";
  config_.uplinks[0].device = "{domain}-{n}";
  EXPECT_THAT(refusal(NicAt("a.sock"), "a b\n"),
              AllOf(HasSubstr("domain \"a b\\n\": interface"), HasSubstr("cannot stand for {domain}")));
}

TEST_F(LibvirtPorts, TwoInterfacesOnOneSocket) {
  const auto vm1 = DomainOf("vm1", {NicAt("a.sock")}), vm2 = DomainOf("vm2", {NicAt("a.sock", "52:54:00:00:00:03")});
  EXPECT_THAT(Plan({vm1, vm2}).refused,
              ElementsAre(AllOf(HasSubstr("domain vm2: interface \"52:54:00:00:00:03\""),
                                HasSubstr("domain vm1, interface \"52:54:00:00:00:02\", has that socket"))));
  EXPECT_THAT(Plan({vm2, vm1}).refused, ElementsAre(HasSubstr("domain vm2")));  // whose port it is keeps it
  EXPECT_EQ(made_[0].domain, "vm1");
  EXPECT_THAT(Plan({vm2}).replace, ElementsAre("a"));
}

TEST_F(LibvirtPorts, ADomainThatLibvirtStartsByItselfHasItsPortBefore) {
  SeenDomain later = DomainOf("later", {NicAt("a.sock")});
  later.active = false;
  EXPECT_THAT(Plan({later}).add, ElementsAre("a"));
  const DomainPortsPlan plan = Plan({later, DomainOf("now", {NicAt("a.sock", "52:54:00:00:00:03")})});
  EXPECT_THAT(plan.replace, ElementsAre("a"));  // its QEMU waits for it
  EXPECT_EQ(made_[0].domain, "now");
  EXPECT_THAT(plan.refused, ElementsAre(HasSubstr("domain later")));
}

TEST_F(LibvirtPorts, ADomainThatDoesNotRunTakesNoGuestsPort) {
  Plan({DomainOf("vm1", {NicAt("a.sock")})});
  guests_ = {"a"};
  SeenDomain later = DomainOf("later", {NicAt("a.sock", "52:54:00:00:00:03")});
  later.active = false;
  const DomainPortsPlan plan = Plan({later});
  EXPECT_THAT(plan.replace, IsEmpty());
  EXPECT_THAT(plan.linger, ElementsAre("a"));
  EXPECT_THAT(plan.refused,
              ElementsAre(AllOf(HasSubstr("domain later"),
                                HasSubstr("a QEMU of domain vm1, interface \"52:54:00:00:00:02\", is connected"))));
  guests_ = {};
  EXPECT_THAT(Plan({later}).replace, ElementsAre("a"));
  EXPECT_EQ(made_[0].domain, "later");
}

TEST_F(LibvirtPorts, TwoInterfacesOnOneDevice) {
  config_.uplinks[0].device = "t{mac}";
  EXPECT_THAT(Plan({DomainOf("vm1", {NicAt("a.sock")}), DomainOf("vm2", {NicAt("b.sock")})}).refused,
              ElementsAre(AllOf(HasSubstr("domain vm2"), HasSubstr("already used by port a"))));
  EXPECT_THAT(Made(), ElementsAre("a"));
}

TEST_F(LibvirtPorts, AThousandInterfaces) {
  std::vector<Nic> nics;
  for (int i = 0; i < 1000; ++i)
    nics.push_back(NicAt(
        absl::StrCat("n", i, ".sock"),
        absl::StrCat("52:54:00:00:", absl::Hex(i / 256, absl::kZeroPad2), ":", absl::Hex(i % 256, absl::kZeroPad2))));
  nics.push_back(NicAt("n7.sock"));
  const DomainPortsPlan plan = Plan({DomainOf("vm1", nics)});
  EXPECT_THAT(plan.add, SizeIs(1000));
  EXPECT_THAT(plan.refused, SizeIs(1));
}

}  // namespace
}  // namespace everport
