#include "migration/domain_xml.h"

#include <climits>
#include <pugixml.hpp>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace everport::migration {
namespace {

// With all that is between the elements, so that it can be written as it was.
absl::Status Load(const std::string& xml, pugi::xml_document& document) {
  const pugi::xml_parse_result result =
      document.load_buffer(xml.data(), xml.size(), pugi::parse_full | pugi::parse_ws_pcdata, pugi::encoding_utf8);
  if (!result) {
    return absl::FailedPreconditionError(
        absl::StrCat("the domain's XML cannot be read, at byte ", result.offset, ": ", result.description()));
  }
  if (!document.child("domain")) return absl::FailedPreconditionError("the domain's XML has no element <domain>");
  return absl::OkStatus();
}

std::string Attribute(const pugi::xml_node& node, const char* name) {
  return node.attribute(name).value();
}

// What is no number, or too large a one, becomes the largest: whoever uses it says that it is out of range.
unsigned Number(const pugi::xml_node& node, const char* name, unsigned otherwise) {
  unsigned number = 0;
  if (!node.attribute(name)) return otherwise;
  return absl::SimpleAtoi(Attribute(node, name), &number) ? number : UINT_MAX;
}

// A cell that says nothing is what the whole domain says.
bool SharedMemory(const pugi::xml_node& domain) {
  const bool all = Attribute(domain.child("memoryBacking").child("access"), "mode") == "shared";
  bool cells = false, shared = true;
  for (const pugi::xml_node& cell : domain.child("cpu").child("numa").children("cell")) {
    cells = true;
    const std::string access = Attribute(cell, "memAccess");
    shared = shared && (access.empty() ? all : access == "shared");
  }
  return cells ? shared : all;
}

template <typename Visit>
void ForEachVhostUser(const pugi::xml_node& domain, const Visit& visit) {
  for (const pugi::xml_node& interface : domain.child("devices").children("interface")) {
    if (Attribute(interface, "type") == "vhostuser") visit(interface);
  }
}

}  // namespace

absl::StatusOr<Domain> ParseDomain(const std::string& xml) {
  pugi::xml_document document;
  if (absl::Status status = Load(xml, document); !status.ok()) return status;
  const pugi::xml_node root = document.child("domain");
  Domain domain;
  domain.name = root.child_value("name");
  domain.shared_memory = SharedMemory(root);
  ForEachVhostUser(root, [&](const pugi::xml_node& interface) {
    const pugi::xml_node source = interface.child("source");
    domain.nics.push_back({.socket = Attribute(source, "path"),
                           .mac = Attribute(interface.child("mac"), "address"),
                           .server = Attribute(source, "mode") == "server",
                           .queue_pairs = Number(interface.child("driver"), "queues", 1),
                           .mtu = Number(interface.child("mtu"), "size", 0)});
  });
  return domain;
}

absl::StatusOr<std::string> WithSockets(const std::string& xml, const std::map<std::string, std::string>& sockets) {
  pugi::xml_document document;
  if (absl::Status status = Load(xml, document); !status.ok()) return status;
  ForEachVhostUser(document.child("domain"), [&](const pugi::xml_node& interface) {
    pugi::xml_attribute path = interface.child("source").attribute("path");
    const auto found = sockets.find(path.value());
    if (found != sockets.end()) path.set_value(found->second.c_str());
  });
  std::ostringstream text;
  document.save(text, "", pugi::format_raw | pugi::format_no_declaration, pugi::encoding_utf8);
  return text.str();
}

}  // namespace everport::migration
