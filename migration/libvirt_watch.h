#pragma once

// What domains there are on this host, as libvirt tells it, time and again.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "migration/domain.h"

namespace everport::migration {

struct SeenDomain {
  std::string uuid;
  bool active = true;   // it has a QEMU, which may still be starting; else it is started with libvirt (autostart)
  bool settled = true;  // whatever comes next has an event; not so of a start that fails
  Domain domain;        // of an unreadable one the name alone
  absl::Status status;  // not ok: it is there, and what it has is not known
};

// All that libvirt says at one moment.
struct Sighting {
  absl::Status status;  // not ok: libvirt cannot be asked; nothing is known of any domain
  // In no order. A domain that is started with libvirt counts before it is: while libvirt starts it, at its own start,
  // libvirt answers nobody, and waits for QEMU, which waits for its back-ends.
  std::vector<SeenDomain> domains;
};

// Where the daemon hears of domains. An interface, so that it is tested without libvirt.
class DomainSource {
 public:
  virtual ~DomainSource() = default;  // after it nothing is reported any more
  // Something may have changed that libvirt does not tell: look again. Returns at once; any thread.
  virtual void Nudge() = 0;
};

struct DomainWatchOptions {
  std::string uri;
  absl::Duration timeout = absl::Seconds(30);      // a libvirtd that says nothing for so long is given up
  absl::Duration read_timeout = absl::Seconds(2);  // a domain that is not read within it is passed over for now
  absl::Duration first_retry = absl::Seconds(1);   // doubled each time
  absl::Duration longest_retry = absl::Seconds(30);
  absl::Duration patience = absl::Seconds(60);  // between two looks that nothing else brought about
};

// Reports the domains when libvirt is reached, and again after each event that may have changed them, after each Nudge,
// and after a while in any case (of autostart there is no event), a short one while a domain is not settled; reports
// also that it is not reached, once for each attempt, and tries again. On a thread of its own, from which `report` is
// called, one call after the other.
//
// A domain that starts has no event before QEMU has its back-ends, for which QEMU waits (libvirt 11.3): whoever is to
// be that back-end nudges when a socket appears. libvirt lists the domain and gives its XML by then. While an interface
// is being attached, its domain cannot be read until QEMU has the back-end of that.
std::unique_ptr<DomainSource> WatchDomains(DomainWatchOptions options, std::function<void(Sighting)> report);

}  // namespace everport::migration
