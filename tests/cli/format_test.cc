#include "backend/cli/format.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

#include "backend/cli/libvirt_xml.h"
#include "backend/cli/table.h"
#include "backend/cli/top.h"

namespace everport::cli {
namespace {

TEST(TableTest, AlignsByCodePointsAndNumbersToTheRight) {
  Table table({{"NAME"}, {"PACKETS", true}, {"NOTE"}});
  table.Add({"vm1", "5", "ok"});
  table.Add({"größe", "12345678", ""});
  table.Add({"a"});
  EXPECT_EQ(table.Text(),
            "NAME    PACKETS  NOTE\n"
            "vm1           5  ok\n"
            "größe  12345678  -\n"
            "a             -  -\n");
}

TEST(ScaledTest, HasThreeDigitsAndAPrefix) {
  EXPECT_EQ(Scaled(0, "pps"), "0 pps");
  EXPECT_EQ(Scaled(7.4, "pps"), "7 pps");
  EXPECT_EQ(Scaled(999, "pps"), "999 pps");
  EXPECT_EQ(Scaled(999.6, "pps"), "1.00 kpps");
  EXPECT_EQ(Scaled(1000, "B"), "1.00 kB");
  EXPECT_EQ(Scaled(9996, "B"), "10.0 kB");
  EXPECT_EQ(Scaled(6'040'000, "pps"), "6.04 Mpps");
  EXPECT_EQ(Scaled(24.6e9, "bit/s"), "24.6 Gbit/s");
  EXPECT_EQ(Scaled(999.4e6, "B"), "999 MB");
}

TEST(FieldTest, WhatIsMissingIsEmpty) {
  const auto value = boost::json::parse(R"({"a":{"b":"text","n":3},"none":null,"big":18446744073709551615})");
  EXPECT_EQ(Text(value, "/a/b"), "text");
  EXPECT_EQ(Text(value, "/a/n"), "3");
  EXPECT_EQ(Text(value, "/a/x"), "");
  EXPECT_EQ(Text(value, "/none"), "");
  EXPECT_EQ(Text(value, "/a/b/c"), "");
  EXPECT_EQ(Number(value, "/a/n"), 3u);
  EXPECT_EQ(Number(value, "/a/b"), 0u);
  EXPECT_EQ(Number(value, "/big"), UINT64_MAX);
}

TEST(PathTextTest, NamesIndexKindAndDevice) {
  EXPECT_EQ(
      PathText(boost::json::parse(R"({"path":{"index":1,"kind":"tap"},"uplinks":[{"device":"x"},{"device":"t0"}]})")),
      "1 tap:t0");
  EXPECT_EQ(PathText(boost::json::parse(R"({"path":{"index":-1,"kind":""},"uplinks":[]})")), "");
  EXPECT_EQ(PathText(boost::json::parse("{}")), "");
}

TEST(RatesTest, AreDifferencesPerSecond) {
  const auto before = boost::json::parse(
      R"([{"name":"a","rx_packets":100,"rx_bytes":1000,"tx_packets":5,"tx_bytes":50,"drops":1},
          {"name":"restarted","rx_packets":100}])");
  const auto after = boost::json::parse(
      R"([{"name":"a","state":"running","rx_packets":300,"rx_bytes":2000,"tx_packets":5,"tx_bytes":50,"drops":5},
          {"name":"restarted","rx_packets":7},{"name":"new","rx_packets":9}])");
  const auto rates = Rates(before, after, 2).as_array();
  ASSERT_EQ(rates.size(), 3u);
  EXPECT_EQ(rates[0].at("rx_pps"), 100.0);
  EXPECT_EQ(rates[0].at("rx_bps"), 4000.0);
  EXPECT_EQ(rates[0].at("tx_pps"), 0.0);
  EXPECT_EQ(rates[0].at("drops_ps"), 2.0);
  EXPECT_EQ(rates[1].at("rx_pps"), 0.0);
  EXPECT_EQ(rates[2].at("rx_pps"), 0.0);
}

TEST(RatesTest, TableHasTotals) {
  const auto rates = boost::json::parse(
      R"([{"name":"vm1","state":"running","path":"0 tap:t0","rx_pps":6.04e6,"rx_bps":3.09e9,"tx_pps":1000.0,"tx_bps":8e6,"drops_ps":0.0},
          {"name":"vm2","state":"waiting","path":"","rx_pps":0.0,"rx_bps":0.0,"tx_pps":0.0,"tx_bps":0.0,"drops_ps":3.0}])");
  EXPECT_EQ(RatesText(rates),
            "2 ports, rx 6.04 Mpps 3.09 Gbit/s, tx 1.00 kpps 8.00 Mbit/s, drops 3 /s\n"
            "\n"
            "NAME  STATE    PATH             RX           RX         TX           TX  DROPS\n"
            "vm1   running  0 tap:t0  6.04 Mpps  3.09 Gbit/s  1.00 kpps  8.00 Mbit/s   0 /s\n"
            "vm2   waiting  -             0 pps      0 bit/s      0 pps      0 bit/s   3 /s\n");
}

TEST(LibvirtXmlTest, HasInterfaceAndMemoryBacking) {
  const auto port = boost::json::parse(
      R"({"name":"vm1","mac":"52:54:00:00:00:02","socket":"/run/v&ms/a.sock","queue_pairs":4,"mtu":9000,"contract":"everport-1"})");
  const auto contract = boost::json::parse(R"({"ring_layouts":["split","packed"]})");
  EXPECT_EQ(LibvirtXml(port, contract),
            "<!-- Directly below <domain>: the daemon must reach the guest's memory. Keep other hugepages/nosharepages "
            "settings. -->\n"
            "<memoryBacking>\n"
            "  <source type='memfd'/>\n"
            "  <access mode='shared'/>\n"
            "</memoryBacking>\n"
            "\n"
            "<!-- Below <devices>: port vm1. -->\n"
            "<interface type='vhostuser'>\n"
            "  <mac address='52:54:00:00:00:02'/>\n"
            "  <source type='unix' path='/run/v&amp;ms/a.sock' mode='server'/>\n"
            "  <model type='virtio'/>\n"
            "  <driver queues='4' rx_queue_size='1024' tx_queue_size='1024' packed='on'/>\n"
            "  <mtu size='9000'/>\n"
            "</interface>\n");
}

TEST(LibvirtXmlTest, PackedRingsOnlyWhereTheContractOffersThem) {
  const auto port = boost::json::parse(R"({"contract":"minimal-1"})");
  const auto contract = boost::json::parse(R"({"ring_layouts":["split"]})");
  EXPECT_EQ(LibvirtXml(port, contract).find("packed"), std::string::npos);
}

}  // namespace
}  // namespace everport::cli
