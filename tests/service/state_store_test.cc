#include "backend/service/state_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace everport {
namespace {

using ::testing::HasSubstr;

class StateStoreTest : public ::testing::Test {
 protected:
  StateStoreTest() {
    std::string path = ::testing::TempDir() + "state_store_XXXXXX";
    dir_ = mkdtemp(path.data());
  }
  ~StateStoreTest() override { std::filesystem::remove_all(dir_); }

  void Write(const std::string& text) { std::ofstream(dir_ + "/ports.json") << text; }
  static PortConfig Port(const std::string& name) {
    PortConfig port;
    port.name = name;
    port.socket = "/run/" + name + ".sock";
    port.mac = "52:54:00:00:00:01";
    port.uplinks = {{UplinkKind::kTap, "ep-" + name, "br0"}};
    return port;
  }

  std::string dir_;
};

TEST_F(StateStoreTest, APortsContractIsOneThatTheHostKnows) {
  PortConfig port = Port("vm1");
  port.contract = "mine-1";
  ASSERT_TRUE(StateStore(dir_).Save({port}).ok());
  FeatureContract mine = *FindContract("everport-1");
  mine.name = "mine-1";
  EXPECT_EQ(StateStore(dir_).Load(ContractSet({mine})).value().ports, std::vector{port});
}

TEST_F(StateStoreTest, APortThatCannotBeServedIsLeftOutAloneAndKept) {
  PortConfig port = Port("vm1");
  port.contract = "mine-1";
  const StateStore store(dir_);
  ASSERT_TRUE(store.Save({Port("vm0"), port, Port("vm2")}).ok());
  const auto saved = store.Load(BuiltInContracts());
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(saved->ports, (std::vector<PortConfig>{Port("vm0"), Port("vm2")}));
  ASSERT_EQ(saved->left_out.size(), 1u);
  EXPECT_EQ(saved->left_out[0].name, "vm1");
  EXPECT_THAT(saved->left_out[0].why, ::testing::StartsWith("contract: \"mine-1\" is not a feature contract"));
  ASSERT_TRUE(store.Save({Port("vm3")}, saved->left_out).ok());
  FeatureContract mine = *FindContract("everport-1");
  mine.name = "mine-1";
  EXPECT_EQ(store.Load(ContractSet({mine})).value().ports, (std::vector<PortConfig>{Port("vm3"), port}));
}

TEST_F(StateStoreTest, NoFileIsNoPorts) {
  const auto ports = StateStore(dir_).Load(BuiltInContracts());
  ASSERT_TRUE(ports.ok()) << ports.status();
  EXPECT_TRUE(ports->ports.empty());
}

TEST_F(StateStoreTest, DomainsPortsAreSavedWithWhoseTheyAre) {
  const StateStore store(dir_);
  EXPECT_TRUE(store.LoadDomainPorts(BuiltInContracts()).value().ports.empty());
  const std::vector<DomainPort> ports = {{Port("a"), "uuid-1", "vm \"1\"\n"}, {Port("b"), "uuid-2", ""}};
  ASSERT_TRUE(store.SaveDomainPorts(ports).ok());
  EXPECT_EQ(store.LoadDomainPorts(BuiltInContracts()).value().ports, ports);
  EXPECT_TRUE(store.Load(BuiltInContracts()).value().ports.empty());
}

TEST_F(StateStoreTest, ABrokenRecordOfDomainsPortsNamesItself) {
  for (const char* text :
       {"[{", "{}", "[1]", "[{\"uuid\":\"u\",\"domain\":\"d\"}]", "[{\"uuid\":1,\"domain\":\"d\",\"port\":{}}]"}) {
    std::ofstream(dir_ + "/libvirt.json") << text;
    const auto ports = StateStore(dir_).LoadDomainPorts(BuiltInContracts());
    EXPECT_THAT(std::string(ports.status().message()), HasSubstr(dir_ + "/libvirt.json: ")) << text;
  }
}

TEST_F(StateStoreTest, ADomainsPortThatCannotBeServedIsLeftOutAlone) {
  const StateStore store(dir_);
  DomainPort odd = {Port("b"), "uuid-2", "vm2"};
  odd.config.contract = "mine-1";
  const std::vector<DomainPort> ports = {{Port("a"), "uuid-1", "vm1"}, odd, {Port("c"), "uuid-3", "vm3"}};
  ASSERT_TRUE(store.SaveDomainPorts(ports).ok());
  const auto saved = store.LoadDomainPorts(BuiltInContracts());
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(saved->ports, (std::vector<DomainPort>{ports[0], ports[2]}));
  EXPECT_THAT(saved->left_out,
              ::testing::ElementsAre(::testing::AllOf(HasSubstr(dir_ + "/libvirt.json: port of domain vm2 left out: "),
                                                      HasSubstr("\"mine-1\" is not a feature contract"),
                                                      HasSubstr("made anew from what libvirt says"))));
}

TEST_F(StateStoreTest, GivesBackWhatWasSavedAndMakesTheFolder) {
  const StateStore store(dir_ + "/deep/er");
  ASSERT_TRUE(store.Save({Port("a"), Port("b")}).ok());
  const auto ports = store.Load(BuiltInContracts());
  ASSERT_TRUE(ports.ok()) << ports.status();
  EXPECT_EQ(ports->ports, (std::vector<PortConfig>{Port("a"), Port("b")}));
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/deep/er/ports.json.new"));
}

TEST_F(StateStoreTest, MalformedFileIsNamedWithTheMend) {
  for (const char* text : {"", "{", "{}", "[1]", "[{}]", "[{\"name\":\"x/y\"}]"}) {
    Write(text);
    const auto ports = StateStore(dir_).Load(BuiltInContracts());
    ASSERT_FALSE(ports.ok()) << text;
    EXPECT_THAT(std::string(ports.status().message()), HasSubstr(dir_ + "/ports.json"));
  }
}

TEST_F(StateStoreTest, ChoicesAreKeptByPort) {
  const StateStore store(dir_);
  EXPECT_TRUE(store.LoadChoices().value().empty());
  const StateStore::Choices choices = {{"a", {UplinkKind::kVf, "0000:3b:02.1", ""}},
                                       {"b", {UplinkKind::kTap, "t", ""}}};
  ASSERT_TRUE(store.SaveChoices(choices).ok());
  EXPECT_EQ(store.LoadChoices().value(), choices);
  ASSERT_TRUE(store.SaveChoices({}).ok());
  EXPECT_TRUE(store.LoadChoices().value().empty());
}

TEST_F(StateStoreTest, MalformedChoicesAreNamed) {
  for (const char* text : {"", "[]", "{\"a\":1}", "{\"a\":{}}", "{\"a\":{\"kind\":\"x\",\"device\":\"y\"}}"}) {
    std::ofstream(dir_ + "/paths.json") << text;
    const auto choices = StateStore(dir_).LoadChoices();
    ASSERT_FALSE(choices.ok()) << text;
    EXPECT_THAT(std::string(choices.status().message()), HasSubstr(dir_ + "/paths.json"));
  }
}

TEST_F(StateStoreTest, AFailedSaveLeavesTheOldFile) {
  const StateStore store(dir_);
  ASSERT_TRUE(store.Save({Port("a")}).ok());
  std::filesystem::create_directory(dir_ + "/ports.json.new");  // cannot be opened for writing
  const absl::Status status = store.Save({Port("b")});
  EXPECT_THAT(std::string(status.message()), HasSubstr("state_dir"));
  EXPECT_EQ(StateStore(dir_).Load(BuiltInContracts())->ports.at(0).name, "a");
}

}  // namespace
}  // namespace everport
