#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "backend/config/check.h"
#include "backend/config/config.h"
#include "backend/config/reader.h"

namespace everport {

std::string PortToJson(const PortConfig& port) {
  boost::json::array uplinks;
  for (const UplinkConfig& uplink : port.uplinks) {
    boost::json::object object{{"kind", UplinkKindName(uplink.kind)}, {"device", uplink.device}};
    if (!uplink.bridge.empty()) object["bridge"] = uplink.bridge;
    if (uplink.bind) object["bind"] = true;
    uplinks.push_back(std::move(object));
  }
  boost::json::object object{{"name", port.name},
                             {"socket", port.socket},
                             {"mac", port.mac},
                             {"queue_pairs", port.queue_pairs},
                             {"mtu", port.mtu},
                             {"contract", port.contract},
                             {"failback_delay_ms", port.failback_delay_ms},
                             {"uplink", std::move(uplinks)}};
  if (port.postcopy) object["postcopy"] = true;
  return boost::json::serialize(object);
}

absl::StatusOr<PortConfig> PortFromJson(std::string_view json, const ContractSet* contracts) {
  config::Source source("port");
  boost::json::error_code error;
  const boost::json::value value = boost::json::parse(json, error);
  if (error) {
    source.Fail("", absl::StrCat("not valid JSON: ", error.message(), "; correct the body"));
    return source.status();
  }
  const auto* object = value.if_object();
  if (!object) {
    source.Fail("", absl::StrCat("is ", config::Describe(value), " where an object is wanted; write {\"name\": …}"));
    return source.status();
  }
  if (const auto* name = object->if_contains("name"); name && name->is_string()) {
    const absl::string_view text(name->get_string().data(), name->get_string().size());
    if (config::ValidName(text)) source.set_origin(absl::StrCat("port ", text));
  }
  PortConfig port = config::ReadPort(config::Table(source, *object, ""));
  source.FailAll("", config::FindProblems(port, contracts));
  if (!source.ok()) return source.status();
  return port;
}

}  // namespace everport
