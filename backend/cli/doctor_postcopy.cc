// What doctor looks at for ports whose guests may arrive by post-copy: whether everportd may have a userfaultfd.
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "backend/cli/doctor.h"

namespace everport::cli {

// librte_vhost asks by the system call, for faults of the kernel as well (userfaultfd(2)): that takes CAP_SYS_PTRACE,
// or vm.unprivileged_userfaultfd = 1. The kernel has that file when it has userfaultfd (CONFIG_USERFAULTFD).
void ExaminePostcopy(const DoctorFacts& facts, const DoctorPort& port, std::vector<Finding>& findings) {
  constexpr char kForAll[] = "/proc/sys/vm/unprivileged_userfaultfd";
  constexpr unsigned kSysPtrace = 19;  // linux/capability.h
  if (!port.config.postcopy) return;
  const std::string object = absl::StrCat("port ", port.config.name);
  const auto for_all = facts.root.Read(kForAll);
  if (!for_all) {
    findings.push_back({Level::kFail, object,
                        "postcopy = true, but the kernel has no userfaultfd, so QEMU cannot bring its guest by "
                        "post-copy; use one with CONFIG_USERFAULTFD, or remove postcopy"});
    return;
  }
  const auto daemon = CredentialsOf(facts.root, "everportd");
  if (daemon && !(daemon->capabilities >> kSysPtrace & 1) && absl::StripAsciiWhitespace(*for_all) != "1") {
    findings.push_back({Level::kFail, object,
                        "postcopy = true, but everportd may not have a userfaultfd, so QEMU cannot bring its guest by "
                        "post-copy; run it with CAP_SYS_PTRACE, or run: sysctl vm.unprivileged_userfaultfd=1"});
    return;
  }
  findings.push_back({Level::kOk, object, "its guest may arrive by post-copy"});
}

}  // namespace everport::cli
