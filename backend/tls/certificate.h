#pragma once

// What a certificate says, as values and in words. Pure; any thread.

#include <cstdint>
#include <string>
#include <vector>

struct x509_st;  // OpenSSL's X509

namespace everport {

struct CertificateInfo {
  std::string subject;                               // "CN=host-a", or all of it where there is no CN
  std::string issuer;                                // likewise
  std::string common_name;                           // empty if there is none
  std::vector<std::string> dns_names, ip_addresses;  // subjectAltName
  int64_t not_before = 0, not_after = 0;             // seconds since 1970

  // Whether this is its CN or one of its alternative names (no wildcards).
  bool HasName(const std::string& name) const;
  // "host-a, 10.0.0.1", or what there is instead; cut if there are many.
  std::string AltNames() const;
};

CertificateInfo DescribeCertificate(const x509_st* certificate);
// "2026-01-31 12:00 UTC"
std::string DateText(int64_t unix_seconds);

}  // namespace everport
