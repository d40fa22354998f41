#include "migration/libvirt_library.h"

#include <dlfcn.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace everport::migration::libvirt {
namespace {

void KeepQuiet(void*, virErrorPtr) {}

}  // namespace

absl::StatusOr<const Lib*> Load() {
  static std::mutex mutex;
  static const Lib* loaded = nullptr;
  const std::lock_guard lock(mutex);
  if (loaded) return loaded;
  void* const handle = ::dlopen("libvirt.so.0", RTLD_NOW);
  if (!handle) {
    return absl::UnavailableError(
        absl::StrCat("libvirt's library is missing (", ::dlerror(), "); apt-get install libvirt0"));
  }
  auto lib = std::make_unique<Lib>();
#define X(name) lib->name = reinterpret_cast<decltype(lib->name)>(::dlsym(handle, #name));
  EVERPORT_LIBVIRT_FUNCTIONS(X)
#undef X
  const char* missing = nullptr;
#define X(name) \
  if (!lib->name) missing = #name;
  EVERPORT_LIBVIRT_FUNCTIONS(X)
#undef X
  if (missing)
    return absl::UnavailableError(absl::StrCat("libvirt.so.0 has no ", missing, "; install a newer libvirt0"));
  lib->virSetErrorFunc(nullptr, KeepQuiet);
  if (lib->virEventRegisterDefaultImpl() < 0) return absl::InternalError("libvirt: no event loop");
  loaded = lib.release();
  std::thread([lib = loaded] {
    while (lib->virEventRunDefaultImpl() >= 0) {
    }
  }).detach();
  return loaded;
}

LibvirtError LastError(const Lib& lib) {
  return {lib.virGetLastErrorCode(), lib.virGetLastErrorMessage()};
}

absl::Status StatusOf(const LibvirtError& error, const std::string& what, const std::string& mend) {
  const std::string text = absl::StrCat(what, ": ", error.text, mend.empty() ? "" : "; ", mend);
  switch (error.code) {
    case VIR_ERR_NO_DOMAIN:
      return absl::NotFoundError(text);
    case VIR_ERR_OPERATION_ABORTED:
      return absl::CancelledError(text);
    case VIR_ERR_AUTH_FAILED:
    case VIR_ERR_ACCESS_DENIED:
      return absl::PermissionDeniedError(text);
    default:
      return absl::FailedPreconditionError(text);
  }
}

namespace {

constexpr const char* kMend = "is its libvirtd running, and is that its URI?";

}  // namespace

absl::StatusOr<Connection> Open(const Lib& lib, const std::string& uri, absl::Duration timeout) {
  virConnect* const opened = lib.virConnectOpen(uri.c_str());
  if (!opened) return StatusOf(LastError(lib), absl::StrCat("libvirt at ", uri), kMend);
  Connection connection(opened, lib.virConnectClose);
  // A host that dies, or stops, ends the calls that wait for it. Older ones than libvirt 0.9.8 do not know it.
  const unsigned count = 4;
  const auto interval = std::max<int64_t>(1, absl::ToInt64Seconds(timeout) / (count + 1));
  (void)lib.virConnectSetKeepAlive(opened, static_cast<int>(interval), count);
  return connection;
}

absl::Status NoAnswer(const std::string& uri, absl::Duration timeout) {
  return absl::DeadlineExceededError(
      absl::StrCat("libvirt at ", uri, ": no answer within ", absl::FormatDuration(timeout), "; ", kMend));
}

absl::StatusOr<Connection> Connect(const Lib& lib, const std::string& uri, absl::Duration timeout) {
  Waited<absl::StatusOr<Connection>> attempt([&lib, uri, timeout] { return Open(lib, uri, timeout); });
  auto opened = attempt.Wait(timeout);
  return opened ? *std::move(opened) : NoAnswer(uri, timeout);
}

}  // namespace everport::migration::libvirt
