#pragma once

#include <boost/json/object.hpp>
#include <string>

#include "backend/api/service_api.h"
#include "migration/contract_document.h"

namespace everport {

// The API's JSON form of the service's values; docs/openapi.yaml has the same names. Pure.

boost::json::object PortJson(const PortView& port);
boost::json::object PlacementJson(const PlacementRow& row);
boost::json::object HealthJson(const HealthView& health, const DaemonConfig& daemon);
boost::json::object EventJson(const EventView& event);
// What the guest on a port came to rely on (migration/contract_document.h).
GuestNeeds NeedsOf(const PortView& port);

}  // namespace everport
