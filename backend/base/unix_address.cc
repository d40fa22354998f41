#include "backend/base/unix_address.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace everport {

absl::StatusOr<UnixAddress> UnixAddress::Of(absl::string_view path) {
  if (path.empty()) return absl::InvalidArgumentError(absl::StrCat("a socket's path has 1 to ", kMaxPath, " bytes"));
  if (path.size() > kMaxPath) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": has ", path.size(), " bytes, and a socket's path 1 to ",
                                                   kMaxPath, "; choose a shorter one"));
  }
  if (path.find('\0') != absl::string_view::npos)
    return absl::InvalidArgumentError(
        absl::StrCat(path.substr(0, path.find('\0')), ": a NUL byte follows in the path"));
  UnixAddress address;
  address.address_.sun_family = AF_UNIX;
  path.copy(address.address_.sun_path, path.size());
  return address;
}

}  // namespace everport
