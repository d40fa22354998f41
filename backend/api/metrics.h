#pragma once

#include <prometheus/metric_family.h>

#include <string>
#include <vector>

#include "backend/api/service_api.h"

namespace everport {

// What the service is and counts now, in Prometheus' terms (names, HELP, TYPE, base units). Counters begin at zero with
// the daemon. Control thread.
std::vector<prometheus::MetricFamily> CollectMetrics(const ServiceApi& service);

// The body of GET /metrics: Prometheus' text format 0.0.4.
std::string MetricsText(const ServiceApi& service);

}  // namespace everport
