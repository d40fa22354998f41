#include "backend/base/event_signal.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <mutex>

#include "backend/base/log.h"

namespace everport {
namespace {

void WriteIfRoom(int fd) {
  pollfd poll{fd, POLLOUT, 0};
  if (::poll(&poll, 1, 0) != 1 || !(poll.revents & POLLOUT)) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(fd, &one, sizeof one);
}

// Of an empty file it is over when io_submit returns, so that there is never more than this one under way.
void ReadNothing(aio_context_t context, int file, int signalled) {
  char unused = 0;
  iocb read{};
  read.aio_lio_opcode = IOCB_CMD_PREAD;
  read.aio_fildes = static_cast<uint32_t>(file);
  read.aio_buf = reinterpret_cast<uintptr_t>(&unused);
  read.aio_nbytes = sizeof unused;
  read.aio_flags = IOCB_FLAG_RESFD;
  read.aio_resfd = static_cast<uint32_t>(signalled);
  iocb* list[] = {&read};
  if (::syscall(SYS_io_submit, context, 1, list) != 1) return;
  io_event done;
  timespec no_wait{};
  ::syscall(SYS_io_getevents, context, 0, 1, &done, &no_wait);  // makes room for the next one
}

}  // namespace

EventSignal::EventSignal(Means means) {
  if (means == Means::kWrite) return;
  nothing_.reset(::memfd_create("everport-nothing", MFD_CLOEXEC));
  if (nothing_.valid() && ::syscall(SYS_io_setup, 1, &context_) == 0) return;
  context_ = 0;
  spdlog::warn(
      "no asynchronous I/O from the kernel ({}): a hostile front-end could hold this program up by its "
      "eventfds; raise fs.aio-max-nr and start it again",
      std::strerror(errno));
}

EventSignal::~EventSignal() {
  if (context_ != 0) ::syscall(SYS_io_destroy, context_);
}

void EventSignal::Signal(int fd) {
  if (context_ != 0) {
    ReadNothing(context_, nothing_.get(), fd);
  } else {
    WriteIfRoom(fd);
  }
}

void SignalEvent(int fd) {
  static std::mutex mutex;
  static auto* const signal = new EventSignal;  // threads may still signal while the process ends
  const std::lock_guard lock(mutex);
  signal->Signal(fd);
}

}  // namespace everport
