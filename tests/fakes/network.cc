#include "tests/fakes/network.h"

#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>

#include <cstdlib>
#include <cstring>

#include "backend/base/unique_fd.h"
#include "tests/fakes/require.h"

namespace everport::fakes {

void EnterOwnNetwork() {
  FAKES_REQUIRE(unshare(CLONE_NEWNET | CLONE_NEWNS) == 0);
  FAKES_REQUIRE(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
  FAKES_REQUIRE(mount("sysfs", "/sys", "sysfs", 0, nullptr) == 0);  // of this network namespace
  SetLinkUp("lo", true);
}

void Shell(const std::string& command) {
  if (std::system(command.c_str()) == 0) return;
  std::fprintf(stderr, "failed: %s\n", command.c_str());
  std::abort();
}

void SetLinkUp(const std::string& interface, bool up) {
  const UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::strncpy(request.ifr_name, interface.c_str(), sizeof request.ifr_name - 1);
  FAKES_REQUIRE(ioctl(fd.get(), SIOCGIFFLAGS, &request) == 0);
  const int flags = up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP;
  request.ifr_flags = static_cast<short>(flags);
  FAKES_REQUIRE(ioctl(fd.get(), SIOCSIFFLAGS, &request) == 0);
}

}  // namespace everport::fakes
