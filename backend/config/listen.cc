// [daemon.listen]: the API over TCP.
#include <arpa/inet.h>

#include <cstdint>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "backend/config/check.h"
#include "backend/config/reader.h"

namespace everport::config {
namespace {

constexpr absl::string_view kAddressMend = "write ADDRESS:PORT, for example \"0.0.0.0:9440\" or \"[::]:9440\"";
constexpr size_t kMaxAllow = 1000;
constexpr size_t kMaxName = 253;  // bytes of a DNS name

// Empty, with ip and port filled in; else "cause; mend".
std::string ParseAddress(ListenConfig& listen) {
  const absl::string_view text = listen.address;
  const size_t colon = text.rfind(':');
  const auto fault = [&](auto... why) { return absl::StrCat(Quote(text), " ", why..., "; ", kAddressMend); };
  if (colon == text.npos || colon + 1 == text.size()) return fault("has no port");
  absl::string_view host = text.substr(0, colon);
  const bool bracketed = absl::StartsWith(host, "[") && absl::EndsWith(host, "]");
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (!bracketed && absl::StrContains(host, ':')) return fault("is an IPv6 address without brackets");
  unsigned char bytes[sizeof(in6_addr)];
  listen.ip = std::string(host);
  if (listen.ip.find('\0') != listen.ip.npos ||
      ::inet_pton(bracketed ? AF_INET6 : AF_INET, listen.ip.c_str(), bytes) != 1)
    return fault("does not begin with an IP address of this host");
  uint32_t port = 0;
  if (!absl::SimpleAtoi(text.substr(colon + 1), &port) || port == 0 || port > UINT16_MAX)
    return fault("has no port of 1 to 65535");
  listen.port = static_cast<uint16_t>(port);
  return "";
}

void ReadFile(const Table& table, absl::string_view key, absl::string_view what, std::string& path) {
  table.Read(key, path);
  if (!table.Has(key)) {
    return table.source().Fail(table.PathOf(key), absl::StrCat("is missing; name ", what, " (PEM)"));
  }
  if (const std::string fault = AbsolutePathFault(path); !fault.empty()) table.source().Fail(table.PathOf(key), fault);
}

void CheckAllow(const Table& table, const std::vector<std::string>& allow) {
  const std::string path = table.PathOf("allow");
  if (!table.Has("allow")) return;
  if (allow.empty()) {
    return table.source().Fail(
        path, "the list is empty: nobody could connect; name clients, or leave it out for every certificate of the ca");
  }
  if (allow.size() > kMaxAllow) {
    return table.source().Fail(path, absl::StrCat("has more than ", kMaxAllow, " names; use a CA of its own instead"));
  }
  for (size_t i = 0; i < allow.size(); ++i) {
    if (!allow[i].empty() && allow[i].size() <= kMaxName && allow[i].find('\0') == std::string::npos) continue;
    table.source().Fail(Join(path, i), absl::StrCat(Quote(allow[i]),
                                                    " is no name of a certificate; write its CN or one "
                                                    "of its subjectAltNames"));
  }
}

}  // namespace

ListenConfig ReadListen(const Table& table) {
  table.AllowOnly({"address", "certificate", "key", "ca", "allow"});
  ListenConfig listen;
  table.Read("address", listen.address);
  if (!table.Has("address")) {
    table.source().Fail(table.PathOf("address"), absl::StrCat("is missing; ", kAddressMend));
  } else if (const std::string fault = ParseAddress(listen); !fault.empty()) {
    table.source().Fail(table.PathOf("address"), fault);
  }
  ReadFile(table, "certificate", "the file of this daemon's certificate", listen.certificate);
  ReadFile(table, "key", "the file of the certificate's private key", listen.key);
  ReadFile(table, "ca", "the file of the CA whose certificates clients have", listen.ca);
  listen.allow = table.StringsAt("allow");
  CheckAllow(table, listen.allow);
  return listen;
}

}  // namespace everport::config
