#include "backend/api/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/api/fake_service.h"

namespace everport {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class MetricsTest : public testing::Test {
 protected:
  MetricsTest() { fakes::FillWithExample(service); }
  fakes::FakeService service;
};

TEST_F(MetricsTest, PortCountersAreCounters) {
  const std::string text = MetricsText(service);
  EXPECT_THAT(text, HasSubstr("# HELP everport_port_rx_packets_total Packets given to the guest.\n"
                              "# TYPE everport_port_rx_packets_total counter\n"
                              "everport_port_rx_packets_total{port=\"vm1-net0\"} 1234\n"));
  EXPECT_THAT(text, HasSubstr("everport_port_tx_bytes_total{port=\"vm1-net0\"} 64000\n"));
  EXPECT_THAT(text, HasSubstr("everport_port_drops_total{port=\"vm1-net0\",cause=\"malformed\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("everport_port_queue_tx_packets_total{port=\"vm1-net0\",pair=\"1\"} 100\n"));
  EXPECT_THAT(text, HasSubstr("everport_port_replays_total{port=\"vm1-net0\"} 3\n"));
}

TEST_F(MetricsTest, StateAndPath) {
  const std::string text = MetricsText(service);
  EXPECT_THAT(text, HasSubstr("everport_port_state{port=\"vm1-net0\",state=\"running\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("everport_port_state{port=\"vm1-net0\",state=\"waiting\"} 0\n"));
  EXPECT_THAT(text,
              HasSubstr("everport_port_path_info{port=\"vm1-net0\",index=\"1\",kind=\"tap\",mode=\"relay\"} 1\n"));
  EXPECT_THAT(text, Not(HasSubstr("everport_port_path_info{port=\"vm2\"")));
  EXPECT_THAT(text, HasSubstr("everport_port_uplink_failed{port=\"vm1-net0\",index=\"0\",kind=\"vf\"} 1\n"));
}

TEST_F(MetricsTest, PostcopyOfPortsThatHaveIt) {
  EXPECT_THAT(MetricsText(service), Not(HasSubstr("postcopy")));
  service.ports[0].config.postcopy = true;
  service.ports[0].postcopy = {
      .phase = "listening", .seconds = 1.5, .completed = 3, .broken_off = 2, .total_seconds = 7.25};
  const std::string text = MetricsText(service);
  EXPECT_THAT(text, HasSubstr("everport_port_postcopy_phase{port=\"vm1-net0\",phase=\"listening\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("everport_port_postcopy_phase{port=\"vm1-net0\",phase=\"advised\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("everport_port_postcopy_arrivals_total{port=\"vm1-net0\",end=\"completed\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("everport_port_postcopy_arrivals_total{port=\"vm1-net0\",end=\"broken_off\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("everport_port_postcopy_seconds_total{port=\"vm1-net0\"} 7.25\n"));
  EXPECT_THAT(text, Not(HasSubstr("postcopy_seconds_total{port=\"vm2\"")));
}

TEST_F(MetricsTest, DaemonAndPollers) {
  const std::string text = MetricsText(service);
  EXPECT_THAT(text, HasSubstr("everport_build_info{daemon=\"a\",version=\"" EVERPORT_VERSION "\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("everport_keeper_connected 1\n"));
  EXPECT_THAT(text, HasSubstr("everport_start_seconds{stage=\"uplinks\"} 0.03125\n"));
  EXPECT_THAT(text, HasSubstr("everport_poller_busy_ratio{poller=\"1\"} 0.25\n"));
  EXPECT_THAT(text, HasSubstr("everport_poller_loops_total{poller=\"1\"} 7000\n"));
}

TEST_F(MetricsTest, NoKeeperNoKeeperMetric) {
  service.config.keeper = false;
  EXPECT_THAT(MetricsText(service), Not(HasSubstr("everport_keeper_connected")));
}

TEST(MetricsLabels, AreEscaped) {
  fakes::FakeService service;
  service.config.name = "a\"b\\c";
  EXPECT_THAT(MetricsText(service), HasSubstr(R"(daemon="a\"b\\c")"));
}

TEST(Metrics, LibvirtIsThereWhenItIsConfigured) {
  fakes::FakeService service;
  EXPECT_THAT(MetricsText(service), Not(HasSubstr("everport_libvirt")));
  service.libvirt =
      LibvirtView{.uri = "u", .socket_folder = "/v", .connected = true, .trouble = "", .ports = 3, .refused = 2};
  EXPECT_THAT(MetricsText(service),
              AllOf(HasSubstr("everport_libvirt_connected 1\n"), HasSubstr("everport_libvirt_ports 3\n"),
                    HasSubstr("everport_libvirt_refused_interfaces 2\n")));
}

}  // namespace
}  // namespace everport
