#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace everport::fakes {

// What to put into a certificate. Times are seconds from now.
struct CertificateSpec {
  std::string name = "host-a";                        // CN
  std::string alt_names = "DNS:host-a,IP:127.0.0.1";  // as openssl.cnf writes them; empty: none
  int64_t begins = -3600, ends = 86400;
  std::string usage = "";  // extendedKeyUsage; empty: none
  bool rsa = false;        // RSA-2048, else ECDSA P-256
};

struct IssuedCertificate {
  std::string certificate, key;  // PEM
};

// A certificate authority, made on the spot.
class FakeCa {
 public:
  explicit FakeCa(const std::string& name = "everport test CA", int64_t ends = 86400);
  ~FakeCa();
  const std::string& pem() const { return pem_; }
  IssuedCertificate Issue(const CertificateSpec& spec = {}) const;
  // Signed by its own key.
  static IssuedCertificate SelfSigned(const CertificateSpec& spec = {});

 private:
  struct Keys;
  std::unique_ptr<Keys> keys_;
  std::string pem_;
};

}  // namespace everport::fakes
