#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/base/unique_fd.h"

namespace everport {

// Unix sockets by path; all non-blocking and close-on-exec. type: SOCK_STREAM or SOCK_SEQPACKET. Errors name the path.

// Unavailable when nobody answers at that path now.
absl::StatusOr<UniqueFd> ConnectUnix(const std::string& path, int type);

// Listens at path, mode 0600. A socket file that nobody answers is replaced; AlreadyExists when somebody does.
absl::StatusOr<UniqueFd> ListenUnix(const std::string& path, int type);

// Nothing there: an invalid fd.
UniqueFd AcceptUnix(int listener);

// The folder, made if missing (its parent too); mode is set only where it is made.
absl::Status MakeFolder(const std::string& path, unsigned mode);

}  // namespace everport
