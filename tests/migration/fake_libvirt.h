#pragma once

// libvirt.so.0 of our own: two hosts and one domain that is moved from "source:///" to "destination:///". Faults that
// no real libvirt can be brought to at will. Loaded in place of the real one (LD_LIBRARY_PATH).

#include <condition_variable>
#include <mutex>

namespace everport::migration {

struct FakeHost {
  bool answers = true;  // else connections break, and none can be opened
  int lives = 0;        // raised by a restart, which ends the connections that there are
  int state = -1;       // virDomainState of the domain; -1: there is none
  int reason = 0;
};

struct FakeLibvirt {
  std::mutex mutex;
  std::condition_variable changed;
  FakeHost source, destination;
  bool migrating = false;     // until it is set to false the call does not return
  bool moved = false;         // what it returns then
  unsigned long speed = 900;  // MiB/s
  bool aborts = false;        // virDomainAbortJob ends it; else that is refused
};

}  // namespace everport::migration

extern "C" everport::migration::FakeLibvirt* fake_libvirt();
