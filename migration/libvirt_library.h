#pragma once

// libvirt.so.0, loaded at the first use: a program that links this needs none before. The only file with libvirt's
// headers; for libvirt_client.cc and libvirt_watch.cc alone.

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace everport::migration::libvirt {

#define EVERPORT_LIBVIRT_FUNCTIONS(X)                                                                                  \
  X(virConnectClose)                                                                                                   \
  X(virConnectDomainEventDeregisterAny)                                                                                \
  X(virConnectDomainEventRegisterAny)                                                                                  \
  X(virConnectListAllDomains)                                                                                          \
  X(virConnectOpen)                                                                                                    \
  X(virConnectRegisterCloseCallback)                                                                                   \
  X(virConnectSetKeepAlive)                                                                                            \
  X(virConnectUnregisterCloseCallback)                                                                                 \
  X(virDomainAbortJob)                                                                                                 \
  X(virDomainDestroy)                                                                                                  \
  X(virDomainMigrateGetMaxSpeed)                                                                                       \
  X(virDomainMigrateSetMaxSpeed)                                                                                       \
  X(virDomainFree) X(virDomainGetJobStats) X(virDomainGetName) X(virDomainGetState) X(virDomainGetUUIDString)          \
      X(virDomainGetXMLDesc) X(virDomainIsPersistent) X(virDomainLookupByName) X(virDomainLookupByUUIDString)          \
          X(virDomainMigrateStartPostCopy) X(virDomainMigrateToURI3) X(virDomainResume) X(virEventRegisterDefaultImpl) \
              X(virEventRunDefaultImpl) X(virGetLastErrorCode) X(virGetLastErrorMessage) X(virSetErrorFunc)            \
                  X(virTypedParamsAddString) X(virTypedParamsAddULLong) X(virTypedParamsFree)                          \
                      X(virTypedParamsGetULLong)

struct Lib {
#define X(name) decltype(&::name) name = nullptr;  // NOLINT(bugprone-macro-parentheses): it is a declaration
  EVERPORT_LIBVIRT_FUNCTIONS(X)
#undef X
};

// Any thread. The event loop, which hears of events and watches whether the hosts are alive, gets a thread of its own,
// which runs until the process ends. Unavailable: there is no such library, or it is too old.
absl::StatusOr<const Lib*> Load();

struct LibvirtError {
  int code = 0;
  std::string text;
};
LibvirtError LastError(const Lib& lib);  // of this thread
absl::Status StatusOf(const LibvirtError& error, const std::string& what, const std::string& mend = "");

using Connection = std::shared_ptr<virConnect>;
using DomainRef = std::shared_ptr<virDomain>;

// A call of libvirt's that nothing ends, on a thread that is left to itself when its time is over.
template <typename Result>
class Waited {
 public:
  template <typename Call>
  explicit Waited(Call call) : state_(std::make_shared<State>()) {
    std::thread([state = state_, call = std::move(call)] {
      Result result = call();
      const std::lock_guard lock(state->mutex);
      state->result = std::move(result);
      state->done.notify_all();
    }).detach();
  }
  // Null if it has not ended within that time.
  std::optional<Result> Wait(absl::Duration time) {
    std::unique_lock lock(state_->mutex);
    state_->done.wait_for(lock, absl::ToChronoMilliseconds(time), [&] { return state_->result.has_value(); });
    return std::exchange(state_->result, std::nullopt);
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable done;
    std::optional<Result> result;
  };
  std::shared_ptr<State> state_;
};

// Takes as long as libvirt does. Once it is open a host that says nothing for `timeout` is given up.
absl::StatusOr<Connection> Open(const Lib& lib, const std::string& uri, absl::Duration timeout);
absl::Status NoAnswer(const std::string& uri, absl::Duration timeout);
// A host that says nothing for `timeout` is given up, now and later.
absl::StatusOr<Connection> Connect(const Lib& lib, const std::string& uri, absl::Duration timeout);

}  // namespace everport::migration::libvirt
