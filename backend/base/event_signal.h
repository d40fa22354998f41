#pragma once

#include <linux/aio_abi.h>

#include "backend/base/unique_fd.h"

namespace everport {

// Adds one to eventfds that others own too: a front-end's call descriptors. It may fill the counter and clear
// O_NONBLOCK at any moment, and write(2) would then wait for it, for ever, whatever was asked before; a thread that
// serves others too (the keeper's one, the daemon's control thread) must not. So the kernel is told to signal the
// eventfd as the completion of an asynchronous read of nothing (IOCB_FLAG_RESFD, io_submit(2)), which never waits: a
// counter that is full stays so. The descriptor's mode, which is the front-end's as well, is not touched. Not
// thread-safe.
class EventSignal {
 public:
  enum class Means {
    kCompletion,  // as said above; kWrite, and a line in the log, where the kernel has none for us (fs.aio-max-nr)
    kWrite,       // write(2) when there is room: a front-end that fills the counter in between can hold us up
  };

  explicit EventSignal(Means means = Means::kCompletion);
  ~EventSignal();
  EventSignal(const EventSignal&) = delete;
  EventSignal& operator=(const EventSignal&) = delete;

  Means means() const { return context_ != 0 ? Means::kCompletion : Means::kWrite; }

  // fd: an eventfd. Nothing happens when its counter is full (who waits for it has been told), or when it is none.
  void Signal(int fd);

 private:
  aio_context_t context_ = 0;
  UniqueFd nothing_;  // an empty file
};

// The same by one of the process's own, made when it is first needed. Any thread.
void SignalEvent(int fd);

}  // namespace everport
