#include "backend/tls/files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <sys/stat.h>

#include <ctime>

#include "backend/tls/context.h"
#include "backend/tls/handles.h"
#include "tests/fakes/certificates.h"
#include "tests/fakes/temp_dir.h"

namespace everport {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using ::testing::StartsWith;

class TlsFilesTest : public testing::Test {
 protected:
  void Write(const fakes::IssuedCertificate& issued) {
    files.certificate = dir.Write("host.crt", issued.certificate);
    files.key = dir.Write("host.key", issued.key);
    files.ca = dir.Write("ca.crt", ca.pem());
    ::chmod(files.key.c_str(), 0600);
  }
  TlsInspection Inspect(TlsSide side = TlsSide::kServer) const {
    return InspectTlsFiles(files, side, std::time(nullptr));
  }
  // The one fault, less the folder's name.
  std::string Fault(TlsSide side = TlsSide::kServer) const {
    const auto faults = Inspect(side).faults;
    EXPECT_EQ(faults.size(), 1u) << testing::PrintToString(faults);
    if (faults.empty()) return "";
    std::string text = faults[0];
    for (size_t at; (at = text.find(dir.path() + "/")) != std::string::npos;) text.erase(at, dir.path().size() + 1);
    return text;
  }

  fakes::TempDir dir;
  fakes::FakeCa ca;
  TlsFiles files;
};

TEST_F(TlsFilesTest, GoodOnesHaveNoFaults) {
  Write(ca.Issue({.name = "host-a", .alt_names = "DNS:host-a,DNS:hv1.example,IP:10.0.0.1,IP:fd00::1"}));
  const TlsInspection found = Inspect();
  EXPECT_THAT(found.faults, IsEmpty());
  EXPECT_THAT(found.warnings, IsEmpty());
  ASSERT_TRUE(found.certificate);
  EXPECT_EQ(found.certificate->subject, "CN=host-a");
  EXPECT_EQ(found.certificate->issuer, "CN=everport test CA");
  EXPECT_THAT(found.certificate->dns_names, ElementsAre("host-a", "hv1.example"));
  EXPECT_THAT(found.certificate->ip_addresses, ElementsAre("10.0.0.1", "fd00::1"));
  EXPECT_EQ(found.certificate->AltNames(), "host-a, hv1.example, 10.0.0.1, fd00::1");
  EXPECT_NEAR(static_cast<double>(found.certificate->not_after), static_cast<double>(std::time(nullptr) + 86400), 60);
  EXPECT_TRUE(found.certificate->HasName("host-a"));
  EXPECT_TRUE(found.certificate->HasName("fd00::1"));
  EXPECT_FALSE(found.certificate->HasName("host-b"));
  EXPECT_FALSE(found.certificate->HasName(""));
  EXPECT_TRUE(TlsContext::Load(files, TlsSide::kServer, std::time(nullptr)).ok());
}

TEST_F(TlsFilesTest, WhatIsMissingIsNamedEachByItself) {
  Write(ca.Issue());
  files.certificate = dir / "no.crt";
  files.key = dir / "no.key";
  files.ca = dir / "no.ca";
  EXPECT_THAT(Inspect().faults,
              ElementsAre(AllOf(StartsWith("certificate: "),
                                HasSubstr("no.crt: cannot be read (No such file or directory); make it")),
                          StartsWith("key: "), StartsWith("ca: ")));
}

TEST_F(TlsFilesTest, FolderIsNoFile) {
  Write(ca.Issue());
  files.key = dir.path();
  EXPECT_THAT(Inspect().faults, ElementsAre(HasSubstr("cannot be read (Is a directory); name a PEM file")));
}

TEST_F(TlsFilesTest, ExpiredAndNotYetValidAreToldWithTheDate) {
  Write(ca.Issue({.begins = -86400, .ends = -3600}));
  EXPECT_THAT(Fault(), MatchesRegex("certificate: host.crt: the certificate \\(CN=host-a\\) expired on "
                                    "20..-..-.. ..:.. UTC; renew it"));
  EXPECT_FALSE(TlsContext::Load(files, TlsSide::kServer, std::time(nullptr)).ok());
  // Whether a client's is still good is for the server to say, whose clock counts.
  EXPECT_TRUE(TlsContext::Load(files, TlsSide::kClient, std::time(nullptr)).ok());
  Write(ca.Issue({.begins = 3600}));
  EXPECT_THAT(Fault(), MatchesRegex("certificate: host.crt: the certificate \\(CN=host-a\\) is not valid before "
                                    ".* UTC; check this host's clock, or wait"));
  EXPECT_FALSE(TlsContext::Load(files, TlsSide::kServer, std::time(nullptr)).ok());
  EXPECT_TRUE(TlsContext::Load(files, TlsSide::kClient, std::time(nullptr)).ok());
}

TEST_F(TlsFilesTest, ExpiredCaIsTold) {
  Write(ca.Issue());
  files.ca = dir.Write("old-ca.crt", fakes::FakeCa("old CA", -60).pem());
  EXPECT_THAT(Fault(), StartsWith("ca: old-ca.crt: the certificate (CN=old CA) expired on "));
}

TEST_F(TlsFilesTest, KeyOfAnotherCertificate) {
  Write(ca.Issue());
  files.key = dir.Write("other.key", ca.Issue().key);
  EXPECT_EQ(Fault(), "key: other.key: is not the key of host.crt; name the two that were made together");
}

TEST_F(TlsFilesTest, FilesThatWereMixedUp) {
  Write(ca.Issue());
  std::swap(files.certificate, files.key);
  EXPECT_THAT(Inspect().faults,
              ElementsAre(HasSubstr("holds no PEM certificate"), HasSubstr("holds no PEM private key")));
}

TEST_F(TlsFilesTest, EncryptedKeyIsNotAskedAbout) {
  const auto issued = ca.Issue();
  Write(issued);
  const BioHandle in(BIO_new_mem_buf(issued.key.data(), static_cast<int>(issued.key.size())));
  const KeyHandle key(PEM_read_bio_PrivateKey(in.get(), nullptr, nullptr, nullptr));
  const BioHandle out(BIO_new(BIO_s_mem()));
  ASSERT_TRUE(PEM_write_bio_PKCS8PrivateKey(out.get(), key.get(), EVP_aes_128_cbc(), "secret", 6, nullptr, nullptr));
  char* text = nullptr;
  const long size = BIO_get_mem_data(out.get(), &text);
  files.key = dir.Write("secret.key", {text, static_cast<size_t>(size)});
  EXPECT_THAT(Fault(),
              StartsWith("key: secret.key: is encrypted, and everportd asks for no passphrase; run: openssl pkey"));
}

TEST_F(TlsFilesTest, PurposeIsLookedAt) {
  Write(ca.Issue({.usage = "clientAuth"}));
  EXPECT_THAT(Fault(TlsSide::kServer), HasSubstr("(CN=host-a) is not one for servers; issue it with extendedKeyUsage"));
  EXPECT_THAT(Inspect(TlsSide::kClient).faults, IsEmpty());
  Write(ca.Issue({.usage = "serverAuth"}));
  EXPECT_THAT(Inspect(TlsSide::kServer).faults, IsEmpty());
  EXPECT_THAT(Fault(TlsSide::kClient), HasSubstr("(CN=host-a) is not one for clients"));
}

TEST_F(TlsFilesTest, KeyThatAllMayReadIsWarnedOf) {
  Write(ca.Issue());
  ::chmod(files.key.c_str(), 0644);
  const TlsInspection found = Inspect();
  EXPECT_THAT(found.faults, IsEmpty());
  EXPECT_THAT(found.warnings, ElementsAre(HasSubstr("every user of this host may read or write it; run: chmod o= ")));
}

TEST_F(TlsFilesTest, ServerWithoutANameAndCaThatIsNoneAreWarnedOf) {
  const auto issued = ca.Issue({.alt_names = ""});
  Write(issued);
  files.ca = files.certificate;
  const TlsInspection found = Inspect();
  EXPECT_THAT(found.faults, IsEmpty());
  EXPECT_THAT(found.warnings,
              ElementsAre(HasSubstr("has no subjectAltName"), HasSubstr("is not the certificate of a CA")));
  EXPECT_EQ(found.certificate->AltNames(), "no subjectAltName");
}

TEST_F(TlsFilesTest, NamesAreShownWithoutWhatCouldForgeALogLine) {
  Write(ca.Issue({.name = "a\nb\x1b[31m"}));
  EXPECT_EQ(Inspect().certificate->subject, "CN=a?b?[31m");
}

}  // namespace
}  // namespace everport
