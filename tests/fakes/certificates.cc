#include "tests/fakes/certificates.h"

#include <openssl/pem.h>
#include <openssl/rand.h>

#include <cstdlib>

#include "backend/tls/handles.h"

namespace everport::fakes {
namespace {

// A test whose certificates cannot be made is no test.
template <typename T>
T Must(T value) {
  if (!value) std::abort();
  return value;
}

KeyHandle NewKey(bool rsa) {
  return KeyHandle(Must(rsa ? EVP_RSA_gen(2048) : EVP_EC_gen("P-256")));
}

template <typename Write>
std::string Pem(Write write) {
  const BioHandle out(Must(BIO_new(BIO_s_mem())));
  Must(write(out.get()));
  char* text = nullptr;
  const long size = BIO_get_mem_data(out.get(), &text);
  return {text, static_cast<size_t>(size)};
}

std::string PemOf(X509* certificate) {
  return Pem([&](BIO* out) { return PEM_write_bio_X509(out, certificate); });
}

void Extend(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = Must(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  Must(X509_add_ext(certificate, extension, -1));
  X509_EXTENSION_free(extension);
}

X509Handle Make(const CertificateSpec& spec, EVP_PKEY* key, X509* issuer, EVP_PKEY* issuer_key, bool ca) {
  X509Handle certificate(Must(X509_new()));
  X509* const x = certificate.get();
  X509_set_version(x, 2);
  uint64_t serial = 0;
  RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof serial);
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(x), serial >> 1);
  X509_gmtime_adj(X509_getm_notBefore(x), spec.begins);
  X509_gmtime_adj(X509_getm_notAfter(x), spec.ends);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(spec.name.c_str()), -1, -1, 0);
  X509_set_issuer_name(x, X509_get_subject_name(issuer ? issuer : x));
  X509_set_pubkey(x, key);
  Extend(x, issuer ? issuer : x, NID_basic_constraints, ca ? "critical,CA:TRUE" : "critical,CA:FALSE");
  if (!spec.alt_names.empty()) Extend(x, issuer ? issuer : x, NID_subject_alt_name, spec.alt_names);
  if (!spec.usage.empty()) Extend(x, issuer ? issuer : x, NID_ext_key_usage, spec.usage);
  Must(X509_sign(x, issuer_key, EVP_sha256()));
  return certificate;
}

IssuedCertificate Issued(X509* certificate, EVP_PKEY* key) {
  return {PemOf(certificate),
          Pem([&](BIO* out) { return PEM_write_bio_PrivateKey(out, key, nullptr, nullptr, 0, nullptr, nullptr); })};
}

}  // namespace

struct FakeCa::Keys {
  KeyHandle key;
  X509Handle certificate;
};

FakeCa::FakeCa(const std::string& name, int64_t ends) : keys_(std::make_unique<Keys>()) {
  keys_->key = NewKey(false);
  keys_->certificate =
      Make({.name = name, .alt_names = "", .ends = ends}, keys_->key.get(), nullptr, keys_->key.get(), true);
  pem_ = PemOf(keys_->certificate.get());
}

FakeCa::~FakeCa() = default;

IssuedCertificate FakeCa::Issue(const CertificateSpec& spec) const {
  const KeyHandle key = NewKey(spec.rsa);
  const X509Handle certificate = Make(spec, key.get(), keys_->certificate.get(), keys_->key.get(), false);
  return Issued(certificate.get(), key.get());
}

IssuedCertificate FakeCa::SelfSigned(const CertificateSpec& spec) {
  const KeyHandle key = NewKey(spec.rsa);
  const X509Handle certificate = Make(spec, key.get(), nullptr, key.get(), false);
  return Issued(certificate.get(), key.get());
}

}  // namespace everport::fakes
