#include "backend/api/metrics.h"

#include <prometheus/text_serializer.h>

#include <limits>
#include <sstream>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"

namespace everport {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

class Family {
 public:
  Family(std::string name, std::string help, MetricType type) {
    family_.name = std::move(name);
    family_.help = std::move(help);
    family_.type = type;
  }
  Family& Add(Labels labels, double value) {
    ClientMetric metric;
    metric.label = std::move(labels);
    (family_.type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
    family_.metric.push_back(std::move(metric));
    return *this;
  }
  // A family without samples says nothing: it is left out.
  void AppendTo(std::vector<MetricFamily>& families) {
    if (!family_.metric.empty()) families.push_back(std::move(family_));
  }

 private:
  MetricFamily family_;
};

Family Counter(std::string name, std::string help) {
  return {std::move(name), std::move(help), MetricType::Counter};
}
Family Gauge(std::string name, std::string help) {
  return {std::move(name), std::move(help), MetricType::Gauge};
}

struct PortCounter {
  const char* name;
  const char* help;
  uint64_t PortView::*value;
};

constexpr PortCounter kPortCounters[] = {
    {"everport_port_rx_packets_total", "Packets given to the guest.", &PortView::rx_packets},
    {"everport_port_tx_packets_total", "Packets taken from the guest.", &PortView::tx_packets},
    {"everport_port_rx_bytes_total", "Bytes given to the guest.", &PortView::rx_bytes},
    {"everport_port_tx_bytes_total", "Bytes taken from the guest.", &PortView::tx_bytes},
    {"everport_port_sessions_total", "Front-end sessions since the daemon started.", &PortView::sessions},
    {"everport_port_replays_total", "Sessions taken over from the keeper.", &PortView::replays},
};

struct DropCause {
  const char* cause;
  uint64_t PortView::*value;
};

constexpr DropCause kDropCauses[] = {
    {"guest_ring_full", &PortView::drops_guest_ring_full},
    {"uplink_full", &PortView::drops_uplink_full},
    {"malformed", &PortView::drops_malformed},
    {"no_path", &PortView::drops_no_path},
    {"uplink_refused", &PortView::drops_refused},
};

void CollectDaemon(const ServiceApi& service, std::vector<MetricFamily>& out) {
  const HealthView health = service.Health();
  Gauge("everport_build_info", "Always 1; the labels say which daemon and version this is.")
      .Add({{"daemon", service.daemon_config().name}, {"version", EVERPORT_VERSION}}, 1)
      .AppendTo(out);
  Gauge("everport_ready", "1 when the daemon serves its ports.").Add({}, health.ready).AppendTo(out);
  Gauge("everport_problems", "Problems that /v1/health lists now.")
      .Add({}, static_cast<double>(health.problems.size()))
      .AppendTo(out);
  if (service.daemon_config().keeper) {
    Gauge("everport_keeper_connected", "1 while the daemon is connected to the keeper.")
        .Add({}, health.keeper == "connected")
        .AppendTo(out);
  }
  Gauge("everport_start_seconds", "How long the parts of the last start took.")
      .Add({{"stage", "eal"}}, health.startup.eal_ms / 1000)
      .Add({{"stage", "uplinks"}}, health.startup.uplinks_ms / 1000)
      .Add({{"stage", "replay"}}, health.startup.replay_ms / 1000)
      .Add({{"stage", "total"}}, health.startup.total_ms / 1000)
      .AppendTo(out);
}

void CollectPortCounters(const std::vector<PortView>& ports, std::vector<MetricFamily>& out) {
  for (const PortCounter& counter : kPortCounters) {
    Family family = Counter(counter.name, counter.help);
    for (const PortView& port : ports) {
      family.Add({{"port", port.config.name}}, static_cast<double>(port.*counter.value));
    }
    family.AppendTo(out);
  }
  Family drops = Counter("everport_port_drops_total", "Packets dropped, by cause.");
  Family queue_rx = Counter("everport_port_queue_rx_packets_total", "Packets given to the guest, by queue pair.");
  Family queue_tx = Counter("everport_port_queue_tx_packets_total", "Packets taken from the guest, by queue pair.");
  for (const PortView& port : ports) {
    for (const DropCause& drop : kDropCauses) {
      drops.Add({{"port", port.config.name}, {"cause", drop.cause}}, static_cast<double>(port.*drop.value));
    }
    for (const QueueView& queue : port.queues) {
      const Labels labels = {{"port", port.config.name}, {"pair", absl::StrCat(queue.pair)}};
      queue_rx.Add(labels, static_cast<double>(queue.rx_packets));
      queue_tx.Add(labels, static_cast<double>(queue.tx_packets));
    }
  }
  Family switches = Counter("everport_port_path_switches_total", "Path switches, planned or because a path failed.");
  for (const PortView& port : ports) {
    switches.Add({{"port", port.config.name}, {"cause", "planned"}}, static_cast<double>(port.switches.planned));
    switches.Add({{"port", port.config.name}, {"cause", "failover"}}, static_cast<double>(port.switches.failovers));
  }
  switches.AppendTo(out);
  drops.AppendTo(out);
  queue_rx.AppendTo(out);
  queue_tx.AppendTo(out);
}

void CollectSwitchGaps(const std::vector<PortView>& ports, std::vector<MetricFamily>& out) {
  MetricFamily gaps;
  gaps.name = "everport_port_path_switch_gap_seconds";
  gaps.help = "How long the guest was without a path at a switch, at most.";
  gaps.type = MetricType::Histogram;
  for (const PortView& port : ports) {
    ClientMetric metric;
    metric.label = {{"port", port.config.name}};
    uint64_t count = 0;
    for (size_t i = 0; i < PathSwitchStats::kBuckets; ++i) {
      count += port.switches.buckets[i];
      const bool last = i + 1 == PathSwitchStats::kBuckets;
      metric.histogram.bucket.push_back(
          {count, last ? std::numeric_limits<double>::infinity() : PathSwitchStats::kBounds[i]});
    }
    metric.histogram.sample_count = count;
    metric.histogram.sample_sum = port.switches.sum_seconds;
    gaps.metric.push_back(std::move(metric));
  }
  if (!gaps.metric.empty()) out.push_back(std::move(gaps));
}

void CollectPortStates(const std::vector<PortView>& ports, std::vector<MetricFamily>& out) {
  Family state = Gauge("everport_port_state", "1 for the state that the port is in, 0 for the others.");
  Family path = Gauge("everport_port_path_info", "Always 1; the labels say which path is active. Absent without one.");
  Family failed = Gauge("everport_port_uplink_failed", "1 for an uplink that could not be opened or has failed.");
  Family node = Gauge("everport_port_numa_node", "NUMA node where the guest's rings lie; -1 when unknown.");
  for (const PortView& port : ports) {
    for (const char* name : {"waiting", "connected", "running"}) {
      state.Add({{"port", port.config.name}, {"state", name}}, port.state == name);
    }
    if (port.path.index >= 0) {
      path.Add({{"port", port.config.name},
                {"index", absl::StrCat(port.path.index)},
                {"kind", port.path.kind},
                {"mode", port.path.mode}},
               1);
    }
    for (size_t i = 0; i < port.uplinks.size(); ++i) {
      const UplinkView& uplink = port.uplinks[i];
      failed.Add({{"port", port.config.name},
                  {"index", absl::StrCat(i)},
                  {"kind", std::string(UplinkKindName(uplink.config.kind))}},
                 uplink.state == "failed");
    }
    node.Add({{"port", port.config.name}}, port.numa_node);
  }
  for (Family* family : {&state, &path, &failed, &node}) family->AppendTo(out);
}

// Of ports that have it.
void CollectPostcopy(const std::vector<PortView>& ports, std::vector<MetricFamily>& out) {
  Family phase =
      Gauge("everport_port_postcopy_phase",
            "1 for the phase of the guest's arrival by post-copy, 0 for the others; all 0: none is under way.");
  Family arrivals = Counter("everport_port_postcopy_arrivals_total", "Arrivals of guests by post-copy, by their end.");
  Family seconds = Counter("everport_port_postcopy_seconds_total",
                           "How long pages of the guest's memory were yet to come while it ran here.");
  for (const PortView& port : ports) {
    if (!port.config.postcopy) continue;
    for (const char* name : {"advised", "listening"}) {
      phase.Add({{"port", port.config.name}, {"phase", name}}, port.postcopy.phase == name);
    }
    arrivals.Add({{"port", port.config.name}, {"end", "completed"}}, static_cast<double>(port.postcopy.completed));
    arrivals.Add({{"port", port.config.name}, {"end", "broken_off"}}, static_cast<double>(port.postcopy.broken_off));
    seconds.Add({{"port", port.config.name}}, port.postcopy.total_seconds);
  }
  for (Family* family : {&phase, &arrivals, &seconds}) family->AppendTo(out);
}

void CollectPollers(const std::vector<PollerView>& pollers, std::vector<MetricFamily>& out) {
  Family busy = Gauge("everport_poller_busy_ratio", "Share of the last second that the poller was not asleep.");
  Family ports = Gauge("everport_poller_ports", "Ports that the poller serves.");
  Family loops = Counter("everport_poller_loops_total", "Rounds over all queues.");
  Family sleeps = Counter("everport_poller_sleeps_total", "Times that the poller went to sleep.");
  Family wakeups = Counter("everport_poller_wakeups_total", "Times that a kick or an uplink woke the poller.");
  for (const PollerView& poller : pollers) {
    const Labels labels = {{"poller", absl::StrCat(poller.index)}};
    busy.Add(labels, poller.busy_ratio);
    ports.Add(labels, poller.ports);
    loops.Add(labels, static_cast<double>(poller.loops));
    sleeps.Add(labels, static_cast<double>(poller.sleeps));
    wakeups.Add(labels, static_cast<double>(poller.wakeups));
  }
  for (Family* family : {&busy, &ports, &loops, &sleeps, &wakeups}) family->AppendTo(out);
}

void CollectListener(const ServiceApi& service, std::vector<MetricFamily>& out) {
  const std::optional<ListenerView> listener = service.Listener();
  if (!listener) return;
  Gauge("everport_api_tcp_listening", "1 while the API is reached over TCP.")
      .Add({}, !listener->address.empty())
      .AppendTo(out);
  Gauge("everport_api_tcp_connections", "Clients of the API that are connected over TCP.")
      .Add({}, static_cast<double>(listener->connections))
      .AppendTo(out);
  Counter("everport_api_tcp_accepted_total", "Clients that were accepted over TCP.")
      .Add({}, static_cast<double>(listener->accepted))
      .AppendTo(out);
  Family refused = Counter("everport_api_tcp_refused_total", "Connections over TCP that were refused, by cause.");
  for (const auto& [cause, count] : listener->refused) refused.Add({{"cause", cause}}, static_cast<double>(count));
  refused.AppendTo(out);
  if (listener->certificate_not_after == 0) return;
  Gauge("everport_api_tcp_certificate_expiry_timestamp_seconds", "When the certificate in force expires, Unix time.")
      .Add({}, static_cast<double>(listener->certificate_not_after))
      .AppendTo(out);
}

void CollectLibvirt(const ServiceApi& service, std::vector<MetricFamily>& out) {
  const std::optional<LibvirtView> libvirt = service.Libvirt();
  if (!libvirt) return;
  Gauge("everport_libvirt_connected", "1 while libvirt tells of its domains.")
      .Add({}, libvirt->connected)
      .AppendTo(out);
  Gauge("everport_libvirt_ports", "Ports of libvirt's domains.")
      .Add({}, static_cast<double>(libvirt->ports))
      .AppendTo(out);
  Gauge("everport_libvirt_refused_interfaces", "Interfaces in the folder of the sockets that get no port.")
      .Add({}, static_cast<double>(libvirt->refused))
      .AppendTo(out);
}

}  // namespace

std::vector<MetricFamily> CollectMetrics(const ServiceApi& service) {
  std::vector<MetricFamily> families;
  const std::vector<PortView> ports = service.Ports();
  CollectDaemon(service, families);
  CollectListener(service, families);
  CollectLibvirt(service, families);
  CollectPortStates(ports, families);
  CollectPortCounters(ports, families);
  CollectSwitchGaps(ports, families);
  CollectPostcopy(ports, families);
  CollectPollers(service.Pollers(), families);
  return families;
}

std::string MetricsText(const ServiceApi& service) {
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, CollectMetrics(service));
  return text.str();
}

}  // namespace everport
