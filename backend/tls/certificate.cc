#include "backend/tls/certificate.h"

#include <arpa/inet.h>
#include <openssl/asn1.h>

#include <algorithm>
#include <ctime>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "backend/tls/handles.h"

namespace everport {
namespace {

// Names come from the other side, and go into logs: what is not printable is shown as '?', and long ones are cut.
std::string Shown(const std::string& text) {
  constexpr size_t kMost = 200;
  std::string shown = text.substr(0, kMost);
  for (char& c : shown) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = '?';
  }
  return shown;
}

std::string Utf8(const ASN1_STRING* string) {
  unsigned char* bytes = nullptr;
  const int size = string ? ASN1_STRING_to_UTF8(&bytes, string) : -1;
  if (size < 0) return "";
  std::string text(reinterpret_cast<char*>(bytes), static_cast<size_t>(size));
  OPENSSL_free(bytes);
  return text;
}

std::string CommonName(const X509_NAME* name) {
  const int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
  return at < 0 ? "" : Utf8(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)));
}

std::string NameText(const X509_NAME* name) {
  if (const std::string common = CommonName(name); !common.empty()) return absl::StrCat("CN=", Shown(common));
  const BioHandle out(BIO_new(BIO_s_mem()));
  X509_NAME_print_ex(out.get(), name, 0, XN_FLAG_ONELINE & ~ASN1_STRFLGS_ESC_MSB);
  char* text = nullptr;
  const long size = BIO_get_mem_data(out.get(), &text);
  return size > 0 ? Shown(std::string(text, static_cast<size_t>(size))) : "without a subject";
}

int64_t Seconds(const ASN1_TIME* time) {
  std::tm parts{};
  return time && ASN1_TIME_to_tm(time, &parts) == 1 ? timegm(&parts) : 0;
}

void ReadAltNames(const X509* certificate, CertificateInfo& info) {
  auto* names = static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; i < sk_GENERAL_NAME_num(names); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names, i);
    if (name->type == GEN_DNS) info.dns_names.push_back(Utf8(name->d.dNSName));
    if (name->type != GEN_IPADD) continue;
    const ASN1_OCTET_STRING* bytes = name->d.iPAddress;
    const int size = ASN1_STRING_length(bytes);
    char text[INET6_ADDRSTRLEN] = {};
    if ((size == 4 || size == 16) &&
        inet_ntop(size == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(bytes), text, sizeof text)) {
      info.ip_addresses.push_back(text);
    }
  }
  GENERAL_NAMES_free(names);
}

}  // namespace

bool CertificateInfo::HasName(const std::string& name) const {
  const auto in = [&](const std::vector<std::string>& names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  return !name.empty() && (common_name == name || in(dns_names) || in(ip_addresses));
}

std::string CertificateInfo::AltNames() const {
  constexpr size_t kMost = 8;
  std::vector<std::string> names;
  for (const auto* list : {&dns_names, &ip_addresses}) {
    for (const std::string& name : *list) names.push_back(Shown(name));
  }
  if (names.empty()) return "no subjectAltName";
  const size_t all = names.size();
  if (all > kMost) names.resize(kMost);
  return absl::StrCat(absl::StrJoin(names, ", "), all > kMost ? ", …" : "");
}

CertificateInfo DescribeCertificate(const x509_st* certificate) {
  CertificateInfo info;
  info.subject = NameText(X509_get_subject_name(certificate));
  info.issuer = NameText(X509_get_issuer_name(certificate));
  info.common_name = CommonName(X509_get_subject_name(certificate));
  info.not_before = Seconds(X509_get0_notBefore(certificate));
  info.not_after = Seconds(X509_get0_notAfter(certificate));
  ReadAltNames(certificate, info);
  return info;
}

std::string DateText(int64_t unix_seconds) {
  return absl::FormatTime("%Y-%m-%d %H:%M UTC", absl::FromUnixSeconds(unix_seconds), absl::UTCTimeZone());
}

}  // namespace everport
