#pragma once

// The workflow's hypervisor: libvirt, on both hosts. libvirt.so.0 is loaded at the first use, so that a program that
// links this needs none before.

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "migration/workflow.h"

namespace everport::migration {

struct LibvirtOptions {
  std::string domain;            // name or UUID
  std::string from, to;          // URIs; the source's libvirtd connects to `to` by itself (peer to peer)
  std::string migrate_uri;       // where the memory is sent; empty: libvirt's choice
  uint64_t bandwidth_mib_s = 0;  // 0: no limit
  bool postcopy = false;         // after the first pass over memory
  // A host that says nothing for so long is given up; a migration without progress for so long is aborted.
  absl::Duration timeout = absl::Seconds(30);
};

// Connects when it is first used. One thread at a time; its own threads are libvirt's event loop and calls that wait.
// Errors have libvirt's words, with the object and the mend.
std::unique_ptr<Hypervisor> MakeLibvirtClient(LibvirtOptions options);

}  // namespace everport::migration
