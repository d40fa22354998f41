#include "backend/tls/files.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "backend/tls/handles.h"

namespace everport {
namespace {

constexpr size_t kMaxFile = 1 << 20;  // bytes

// Never asks: a daemon has no terminal, and everportctl may be a script's.
int NoPassphrase(char*, int, int, void* asked) {
  *static_cast<bool*>(asked) = true;
  return -1;
}

class Inspector {
 public:
  Inspector(const TlsFiles& files, TlsSide side, int64_t now) : files_(files), side_(side), now_(now) {}

  TlsInspection Run() {
    const X509Handle certificate = ReadCertificate(files_.certificate_label, files_.certificate);
    const KeyHandle key = ReadKey();
    if (certificate) CheckCertificate(*certificate);
    if (certificate && key && X509_check_private_key(certificate.get(), key.get()) != 1) {
      Fault(files_.key_label, files_.key, "is not the key of ", files_.certificate,
            "; name the two that were made together");
    }
    if (const X509Handle ca = ReadCertificate(files_.ca_label, files_.ca)) CheckCa(*ca);
    ERR_clear_error();
    return std::move(result_);
  }

 private:
  template <typename... Parts>
  void Fault(const std::string& label, const std::string& path, const Parts&... parts) {
    result_.faults.push_back(absl::StrCat(label, ": ", path, ": ", parts...));
  }
  template <typename... Parts>
  void Warn(const std::string& label, const std::string& path, const Parts&... parts) {
    result_.warnings.push_back(absl::StrCat(label, ": ", path, ": ", parts...));
  }
  const char* Reader() const { return side_ == TlsSide::kServer ? "everportd" : "everportctl"; }

  std::optional<std::string> ReadFile(const std::string& label, const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    std::string text(kMaxFile, '\0');
    const ssize_t got = fd < 0 ? -1 : ::read(fd, text.data(), text.size());
    const int error = errno;
    if (fd >= 0) ::close(fd);
    if (got >= 0) {
      text.resize(static_cast<size_t>(got));
      return text;
    }
    const std::string mend = error == ENOENT   ? absl::StrCat("make it, or give ", label, " the right path")
                             : error == EACCES ? absl::StrCat("let the user that runs ", Reader(), " read it")
                                               : "name a PEM file";
    Fault(label, path, "cannot be read (", std::strerror(error), "); ", mend);
    return std::nullopt;
  }

  X509Handle ReadCertificate(const std::string& label, const std::string& path) {
    const auto text = ReadFile(label, path);
    if (!text) return nullptr;
    const BioHandle in(BIO_new_mem_buf(text->data(), static_cast<int>(text->size())));
    X509Handle certificate(PEM_read_bio_X509(in.get(), nullptr, nullptr, nullptr));
    if (!certificate) Fault(label, path, "holds no PEM certificate (-----BEGIN CERTIFICATE-----); name one that does");
    return certificate;
  }

  KeyHandle ReadKey() {
    const auto text = ReadFile(files_.key_label, files_.key);
    if (!text) return nullptr;
    struct stat st {};
    if (::stat(files_.key.c_str(), &st) == 0 && (st.st_mode & S_IRWXO) != 0) {
      Warn(files_.key_label, files_.key, "every user of this host may read or write it; run: chmod o= ", files_.key);
    }
    const BioHandle in(BIO_new_mem_buf(text->data(), static_cast<int>(text->size())));
    bool encrypted = false;
    KeyHandle key(PEM_read_bio_PrivateKey(in.get(), nullptr, NoPassphrase, &encrypted));
    if (encrypted) {
      Fault(files_.key_label, files_.key, "is encrypted, and ", Reader(),
            " asks for no passphrase; run: openssl pkey -in ", files_.key, " -out NEW, and name NEW");
    } else if (!key) {
      Fault(files_.key_label, files_.key, "holds no PEM private key (-----BEGIN PRIVATE KEY-----); name one that does");
    }
    return key;
  }

  // Of the other end's certificates the handshake tells.
  void CheckDates(const std::string& label, const std::string& path, const CertificateInfo& info) {
    if (info.not_after < now_) {
      Fault(label, path, "the certificate (", info.subject, ") expired on ", DateText(info.not_after), "; renew it");
    } else if (info.not_before > now_) {
      Fault(label, path, "the certificate (", info.subject, ") is not valid before ", DateText(info.not_before),
            "; check this host's clock, or wait");
    }
  }

  void CheckCertificate(X509& certificate) {
    result_.certificate = DescribeCertificate(&certificate);
    CheckDates(files_.certificate_label, files_.certificate, *result_.certificate);
    const bool server = side_ == TlsSide::kServer;
    const int purpose = server ? X509_PURPOSE_SSL_SERVER : X509_PURPOSE_SSL_CLIENT;
    if (X509_check_purpose(&certificate, purpose, 0) != 1) {
      Fault(files_.certificate_label, files_.certificate, "the certificate (", result_.certificate->subject,
            server ? ") is not one for servers; issue it with extendedKeyUsage = serverAuth"
                   : ") is not one for clients; issue it with extendedKeyUsage = clientAuth");
    }
    if (server && result_.certificate->dns_names.empty() && result_.certificate->ip_addresses.empty()) {
      Warn(
          files_.certificate_label, files_.certificate,
          "has no subjectAltName, so that clients cannot tell whose it is; issue it with this host's name and address");
    }
  }

  void CheckCa(X509& ca) {
    CheckDates(files_.ca_label, files_.ca, DescribeCertificate(&ca));
    if (X509_check_ca(&ca) == 0) {
      Warn(files_.ca_label, files_.ca, "is not the certificate of a CA; name the one that issued the other side's");
    }
  }

  const TlsFiles& files_;
  const TlsSide side_;
  const int64_t now_;
  TlsInspection result_;
};

}  // namespace

TlsInspection InspectTlsFiles(const TlsFiles& files, TlsSide side, int64_t now) {
  return Inspector(files, side, now).Run();
}

}  // namespace everport
