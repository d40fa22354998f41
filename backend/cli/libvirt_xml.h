#pragma once

#include <boost/json/value.hpp>
#include <string>

namespace everport::cli {

// The parts of a libvirt domain that use this port (an object of /v1/ports, and its contract's document), with comments
// that say where each goes.
std::string LibvirtXml(const boost::json::value& port, const boost::json::value& contract);

}  // namespace everport::cli
