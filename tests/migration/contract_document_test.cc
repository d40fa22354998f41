#include "migration/contract_document.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace everport {
namespace {

using boost::json::array;
using boost::json::object;
using boost::json::value;
using ::testing::HasSubstr;
using ::testing::StartsWith;

FeatureContract Built(const char* name) {
  return *FindContract(name);
}
object Document() {
  return ContractToJson(Built("everport-1"));
}
std::string Text(const value& json) {
  return std::string(boost::json::serialize(json));
}
std::string Refusal(const std::string& text) {
  const auto contract = ParseContract(text, "x.json");
  return contract.ok() ? "accepted" : std::string(contract.status().message());
}
// Of everport-1's document with something changed.
std::string RefusalOf(const std::function<void(object&)>& change) {
  object document = Document();
  change(document);
  return Refusal(Text(document));
}

// The form is what other hosts read: if this test fails, kContractFormat must be another.
TEST(ContractDocument, FormIsFrozen) {
  EXPECT_EQ(
      Text(ContractToJson(Built("minimal-1"))),
      R"({"format":1,"name":"minimal-1","features":["VIRTIO_NET_F_MRG_RXBUF","VHOST_F_LOG_ALL",)"
      R"("VIRTIO_F_ANY_LAYOUT","VHOST_USER_F_PROTOCOL_FEATURES","VIRTIO_F_VERSION_1"],)"
      R"("protocol_features":["MQ","LOG_SHMFD","RARP","REPLY_ACK","MTU","BACKEND_REQ","RESET_DEVICE","STATUS"],)"
      R"("max_mtu":1500,"max_queue_pairs":1,"max_ring_size":32768,"ring_layouts":["split"],"announce":["rarp"]})");
  EXPECT_EQ(kContractFormat, 1u);
}

TEST(ContractDocument, ComesBackAsItWas) {
  for (const FeatureContract& contract : BuiltInContracts().all())
    EXPECT_EQ(*ParseContract(Text(ContractToJson(contract)), "x"), contract);
  FeatureContract own = Built("everport-1");
  own.name = "mine-7";
  own.features &= ~(uint64_t{1} << kRingPacked | uint64_t{1} << kNetGuestAnnounce);
  own.max_ring_size = 512;
  EXPECT_EQ(*ParseContract(Text(ContractToJson(own)), "x"), own);
}

TEST(ContractDocument, AnotherFormatIsNamedWithOursAndTheMend) {
  // Whatever else is in it.
  EXPECT_EQ(
      Refusal(R"({"format":2,"names":["a"],"features":7})"),
      "x.json: format: the document has format 2 and this everport reads format 1; upgrade everport on this host");
  EXPECT_EQ(Refusal(R"({"format":0})"),
            "x.json: format: the document has format 0 and this everport reads format 1; write the document anew with "
            "the everport that is on its host now");
  EXPECT_EQ(Refusal("{}"), "x.json: format: is missing; add it");
  EXPECT_THAT(Refusal(R"({"format":"1"})"), HasSubstr("format: is the string \"1\" where an integer is wanted"));
  EXPECT_THAT(Refusal(R"({"format":-1})"), HasSubstr("format: -1 is out of range"));
  EXPECT_THAT(Refusal(R"({"format":1.0})"), HasSubstr("format: is the number 1"));
}

TEST(ContractDocument, WhatIsNoDocumentIsRefused) {
  EXPECT_THAT(Refusal(""), StartsWith("x.json: not valid JSON: "));
  EXPECT_THAT(Refusal("\xff\xfe"), StartsWith("x.json: not valid JSON: "));
  EXPECT_EQ(Refusal("[]"), "x.json: is a list where an object is wanted; write {…}");
  EXPECT_THAT(Refusal(Text(Document()) + "{}"), StartsWith("x.json: not valid JSON: "));
  EXPECT_EQ(Refusal(std::string(65 * 1024, ' ')),
            "x.json: is 66560 bytes long, more than 65536; is this the right file?");
  EXPECT_THAT(Refusal(std::string(60'000, '[')), HasSubstr("lie more than 6 deep"));
  EXPECT_THAT(Refusal("[[[[[[[]]]]]]]"), HasSubstr("lie more than 6 deep"));
  EXPECT_THAT(Refusal("[[[[[[]]]]]]"), HasSubstr("is a list where an object is wanted"));
}

TEST(ContractDocument, AKeyThatComesTwiceIsRefusedAtAnyDepth) {
  std::string text = Text(Document());
  text.insert(1, R"("name":"everport-9",)");
  EXPECT_EQ(Refusal(text), "x.json: \"name\": the key is there twice; take one of them out");
  EXPECT_THAT(Refusal(R"({"format":1,"a":[{"b\u006f":1,"bo":2}]})"), HasSubstr("\"bo\": the key is there twice"));
  // Not twice: in different objects.
  EXPECT_THAT(Refusal(R"({"format":1,"a":{"b":1},"c":{"b":1}})"), HasSubstr("unknown field"));
}

TEST(ContractDocument, EveryFieldIsWanted) {
  for (const auto& member : Document()) {
    const std::string key(member.key());
    EXPECT_EQ(RefusalOf([&](object& d) { d.erase(key); }), absl::StrCat("x.json: ", key, ": is missing; add it"));
  }
}

TEST(ContractDocument, WrongTypesAreNamedByField) {
  for (const auto& member : Document()) {
    const std::string key(member.key());
    for (const value& wrong : {value(nullptr), value(true), value(object{}), value(1.5)}) {
      EXPECT_THAT(RefusalOf([&](object& d) { d[key] = wrong; }), StartsWith(absl::StrCat("x.json: ", key, ": is ")));
    }
  }
  EXPECT_THAT(RefusalOf([](object& d) { d["features"].as_array()[3] = 7; }),
              HasSubstr("features[3]: is the number 7 where a string is wanted"));
}

TEST(ContractDocument, UnknownFieldsAndFeaturesAreRefused) {
  EXPECT_THAT(RefusalOf([](object& d) { d["speed"] = 1; }),
              StartsWith("x.json: \"speed\": unknown field; known here are "));
  EXPECT_EQ(RefusalOf([](object& d) { d["features"].as_array()[1] = "VIRTIO_NET_F_RSS"; }),
            "x.json: features[1]: \"VIRTIO_NET_F_RSS\" is not a feature that this version knows; upgrade everport, or "
            "correct the name");
  EXPECT_THAT(RefusalOf([](object& d) { d["features"].as_array()[1] = "bit 63"; }),
              HasSubstr("features[1]: \"bit 63\""));
  EXPECT_THAT(RefusalOf([](object& d) { d["protocol_features"].as_array()[0] = "XEN_MMAP"; }),
              HasSubstr("protocol_features[0]: \"XEN_MMAP\" is not a feature"));
  EXPECT_THAT(RefusalOf([](object& d) { d["features"].as_array()[1] = "VIRTIO_NET_F_CSUM"; }),
              HasSubstr("features[1]: VIRTIO_NET_F_CSUM is listed twice"));
}

TEST(ContractDocument, NumbersOutOfRangeAreRefused) {
  EXPECT_THAT(RefusalOf([](object& d) { d["max_mtu"] = 67; }),
              HasSubstr("max_mtu: 67 is out of range; use 68 to 65535"));
  EXPECT_THAT(RefusalOf([](object& d) { d["max_mtu"] = -1; }), HasSubstr("max_mtu: -1 is out of range"));
  EXPECT_THAT(RefusalOf([](object& d) { d["max_mtu"] = 65536; }), HasSubstr("max_mtu: 65536 is out of range"));
  EXPECT_THAT(RefusalOf([](object& d) { d["max_mtu"] = UINT64_MAX; }),
              HasSubstr("18446744073709551615 is out of range"));
  EXPECT_THAT(RefusalOf([](object& d) { d["max_queue_pairs"] = 0; }), HasSubstr("max_queue_pairs: 0 is out of range"));
  EXPECT_THAT(RefusalOf([](object& d) { d["max_ring_size"] = 32769; }), HasSubstr("use 1 to 32768"));
}

TEST(ContractDocument, NamesAreContractNames) {
  for (const char* name : {"", "everport", "everport-", "everport-0", "everport-01", "-1", "a b-1", "a\n-1", "ä-1"})
    EXPECT_THAT(RefusalOf([&](object& d) { d["name"] = name; }), HasSubstr("is not a contract's name")) << name;
  EXPECT_THAT(RefusalOf([](object& d) { d["name"] = std::string(62, 'a') + "-1"; }), HasSubstr("name: "));
  EXPECT_EQ(RefusalOf([](object& d) { d["name"] = std::string(61, 'a') + "-1"; }), "accepted");
  EXPECT_EQ(RefusalOf([](object& d) { d["name"] = "a.b-c_d-12"; }), "accepted");
}

TEST(ContractDocument, WhatIsDerivedMustAgree) {
  EXPECT_EQ(RefusalOf([](object& d) { d["ring_layouts"] = array{"split"}; }),
            "x.json: ring_layouts: says otherwise than the features, which make it [split, packed]; correct one of the "
            "two");
  EXPECT_THAT(RefusalOf([](object& d) { d["announce"] = array{"rarp"}; }), HasSubstr("announce: says otherwise"));
}

TEST(ContractDocument, FeaturesThatNeedOthersAreRefusedWithoutThem) {
  const auto without = [](const char* feature) {
    return RefusalOf([&](object& d) {
      array& list = d["features"].as_array();
      list.erase(std::find(list.begin(), list.end(), value(feature)));
    });
  };
  EXPECT_EQ(without("VIRTIO_NET_F_CSUM"),
            "x.json: features: VIRTIO_NET_F_HOST_TSO4 needs VIRTIO_NET_F_CSUM, which is not offered; take both out, or "
            "neither");
  EXPECT_THAT(without("VIRTIO_NET_F_MQ"), HasSubstr("max_queue_pairs: 16 needs VIRTIO_NET_F_MQ"));
}

TEST(ContractDocument, MessagesAreAsciiAndShortWhateverIsInIt) {
  const std::string said = RefusalOf([](object& d) { d["name"] = std::string(5000, '\x01'); });
  EXPECT_LT(said.size(), 700u);
  EXPECT_EQ(said.find('\x01'), std::string::npos);
}

TEST(GuestNeedsTest, ComeBackAsTheyWere) {
  GuestNeeds needs{.mtu = 9000, .queue_pairs = 4, .features = std::nullopt, .ring_size = 0};
  EXPECT_EQ(*NeedsFromJson(NeedsToJson(needs), "needs"), needs);
  needs.features = uint64_t{1} << kVersion1 | uint64_t{1} << kRingPacked;
  needs.ring_size = 1024;
  EXPECT_EQ(*NeedsFromJson(NeedsToJson(needs), "needs"), needs);
  EXPECT_EQ(NeedsToJson(needs).at("ring_layout"), "packed");
}

std::string CheckRefusal(const std::string& body) {
  const auto request = ParseContractCheck(body);
  return request.ok() ? "accepted" : std::string(request.status().message());
}

TEST(ContractCheckRequestTest, HasOneOfTwoForms) {
  const std::string document = Text(Document());
  const std::string needs = Text(NeedsToJson(GuestNeeds{}));
  const auto by_port = ParseContractCheck(absl::StrCat(R"({"port":"vm1","against":)", document, "}"));
  ASSERT_TRUE(by_port.ok()) << by_port.status();
  EXPECT_EQ(by_port->port, "vm1");
  EXPECT_EQ(by_port->contract, Built("everport-1"));
  const auto coming = ParseContractCheck(ContractCheckBody(Document(), NeedsToJson(GuestNeeds{.mtu = 9000})));
  ASSERT_TRUE(coming.ok()) << coming.status();
  EXPECT_EQ(coming->port, "");
  EXPECT_EQ(coming->needs.mtu, 9000);
  for (const std::string& body : {std::string("{}"), absl::StrCat(R"({"port":"vm1","document":)", document, "}")})
    EXPECT_THAT(CheckRefusal(body), StartsWith("the body has neither form, or both; write {\"port\"")) << body;
  EXPECT_EQ(CheckRefusal(absl::StrCat(R"({"document":)", document, "}")), "needs: is missing; add it");
  EXPECT_EQ(CheckRefusal(absl::StrCat(R"({"against":)", document, "}")), "port: is missing; add it");
  EXPECT_THAT(CheckRefusal(absl::StrCat(R"({"port":"","against":)", document, "}")), StartsWith("port: is empty"));
  EXPECT_THAT(CheckRefusal(absl::StrCat(R"({"port":"a","x":1,"against":)", document, "}")),
              HasSubstr("\"x\": unknown"));
  EXPECT_THAT(CheckRefusal(absl::StrReplaceAll(absl::StrCat(R"({"document":)", document, R"(,"needs":)", needs, "}"),
                                               {{"\"max_mtu\":9216", "\"max_mtu\":-9"}})),
              StartsWith("document.max_mtu: -9 is out of range"));
}

TEST(ContractCheckRequestTest, NeedsBeyondTheirOwnContractAreRefused) {
  const auto refusal = [](GuestNeeds needs) {
    return CheckRefusal(ContractCheckBody(ContractToJson(*FindContract("minimal-1")), NeedsToJson(needs)));
  };
  EXPECT_EQ(refusal({}), "accepted");
  EXPECT_EQ(refusal({.mtu = 1501}),
            "needs.mtu: 1501 is more than document.max_mtu, 1500; give the document of the guest's own contract");
  EXPECT_THAT(refusal({.queue_pairs = 2}), StartsWith("needs.queue_pairs: 2 is more than"));
  EXPECT_THAT(refusal({.features = uint64_t{1} << kNetMq}),
              StartsWith("needs.features: VIRTIO_NET_F_MQ is not offered by the document"));
  EXPECT_THAT(refusal({.ring_size = 65535}), StartsWith("needs.ring_size: 65535 is more than"));
}

TEST(ContractCheckRequestTest, BadNeedsAreNamedByField) {
  const auto refusal = [](const char* needs) {
    return CheckRefusal(absl::StrCat(R"({"document":)", Text(Document()), R"(,"needs":)", needs, "}"));
  };
  EXPECT_THAT(refusal("7"), StartsWith("needs: is the number 7 where an object is wanted"));
  EXPECT_THAT(refusal("{}"), StartsWith("needs.mtu: is missing"));
  EXPECT_THAT(refusal(R"({"mtu":67,"queue_pairs":1})"), StartsWith("needs.mtu: 67 is out of range"));
  EXPECT_THAT(refusal(R"({"mtu":1500,"queue_pairs":0})"), StartsWith("needs.queue_pairs: 0 is out of range"));
  EXPECT_THAT(refusal(R"({"mtu":1500,"queue_pairs":1,"features":["X"]})"), StartsWith("needs.features[0]: \"X\""));
  EXPECT_THAT(refusal(R"({"mtu":1500,"queue_pairs":1,"features":[],"ring_layout":"packed"})"),
              StartsWith("needs.ring_layout: \"packed\" is not what features say"));
  EXPECT_THAT(refusal(R"({"mtu":1500,"queue_pairs":1,"speed":1})"), StartsWith("needs.\"speed\": unknown field"));
  EXPECT_EQ(refusal(R"({"mtu":1500,"queue_pairs":1})"), "accepted");
}

}  // namespace
}  // namespace everport
