// The metrics of the example service on stdout, for promtool.
#include <iostream>

#include "backend/api/metrics.h"
#include "tests/api/fake_service.h"

int main() {
  everport::fakes::FakeService service;
  everport::fakes::FillWithExample(service);
  std::cout << everport::MetricsText(service);
}
