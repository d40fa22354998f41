// `everportctl doctor`: the API over TCP.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "backend/cli/doctor.h"
#include "backend/tls/listen_files.h"

namespace everport::cli {
namespace {

constexpr const char* kObject = "api over TCP";
constexpr int64_t kExpiryWarning = 30 * 24 * 3600;  // seconds

// What the files say, which may be newer than those that the daemon has in force.
void ExamineFiles(const DoctorFacts& facts, std::vector<Finding>& findings) {
  TlsFiles files = ListenFiles(*facts.daemon->listen);
  for (std::string* path : {&files.certificate, &files.key, &files.ca}) {
    path->insert(0, facts.root.prefix());
    if (::access(path->c_str(), R_OK) == 0 || errno != EACCES) continue;
    findings.push_back(
        {Level::kWarn, kObject,
         absl::StrCat(path->substr(facts.root.prefix().size()),
                      ": may not be read by this user, so that it is not looked at; run doctor as root")});
    return;
  }
  const int64_t now = std::time(nullptr);
  const TlsInspection found = InspectTlsFiles(files, TlsSide::kServer, now);
  const auto add = [&](Level level, const std::string& text) {
    const std::string prefix = facts.root.prefix();
    findings.push_back({level, kObject, prefix.empty() ? text : absl::StrReplaceAll(text, {{prefix, ""}})});
  };
  for (const std::string& fault : found.faults) add(Level::kFail, fault);
  for (const std::string& warning : found.warnings) add(Level::kWarn, warning);
  if (!found.faults.empty() || !found.certificate) return;
  const CertificateInfo& certificate = *found.certificate;
  if (certificate.not_after - now < kExpiryWarning) {
    add(Level::kWarn, absl::StrCat(files.certificate_label, ": ", files.certificate, ": the certificate (",
                                   certificate.subject, ") expires on ", DateText(certificate.not_after),
                                   "; renew it, and run: systemctl reload everportd"));
  } else {
    add(Level::kOk, absl::StrCat(facts.daemon->listen->address, ", certificate (", certificate.subject,
                                 ") valid until ", DateText(certificate.not_after)));
  }
}

}  // namespace

void ExamineListener(const DoctorFacts& facts, std::vector<Finding>& findings) {
  std::vector<Finding> of_files;
  if (facts.daemon && facts.daemon->listen) ExamineFiles(facts, of_files);
  if (facts.health) {
    for (const std::string& problem : facts.health->problems) {
      if (!absl::StartsWith(problem, kListenProblem)) continue;
      const std::string label = problem.substr(0, problem.find(": ") + 2);
      const bool said = std::any_of(of_files.begin(), of_files.end(),
                                    [&](const Finding& finding) { return absl::StartsWith(finding.text, label); });
      if (!said) findings.push_back({Level::kWarn, kObject, problem});
    }
  }
  findings.insert(findings.end(), of_files.begin(), of_files.end());
}

}  // namespace everport::cli
