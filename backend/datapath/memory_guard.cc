#include "backend/datapath/memory_guard.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>

namespace everport {
namespace {

constexpr size_t kHits = 64;
std::atomic<uintptr_t> g_hits[kHits];
std::atomic<size_t> g_hit_count{0};

// Everything below is called from the signal handler: system calls and plain memory only (signal-safety(7)).

// One line of /proc/self/maps: "start-end perms …". perms[3] is 's' for a shared mapping.
struct Mapping {
  uintptr_t start = 0, end = 0;
  bool shared = false, writable = false, anonymous = false;
};

uintptr_t ParseHex(const char*& at, const char* end) {
  uintptr_t value = 0;
  for (; at < end; ++at) {
    const char c = *at;
    if (c >= '0' && c <= '9') {
      value = value * 16 + static_cast<uintptr_t>(c - '0');
    } else if (c >= 'a' && c <= 'f') {
      value = value * 16 + static_cast<uintptr_t>(c - 'a' + 10);
    } else {
      break;
    }
  }
  return value;
}

bool ParseLine(const char* line, const char* end, Mapping& mapping) {
  mapping.start = ParseHex(line, end);
  if (line == end || *line++ != '-') return false;
  mapping.end = ParseHex(line, end);
  if (end - line < 5) return false;
  mapping.writable = line[2] == 'w';
  mapping.shared = line[4] == 's';
  // "perms offset dev inode path": an anonymous mapping has inode 0.
  const char* field = line;
  for (int spaces = 0; field < end && spaces < 4; ++field) spaces += *field == ' ';
  mapping.anonymous = field < end && *field == '0' && (field + 1 == end || field[1] == ' ');
  return true;
}

bool FindMapping(uintptr_t address, Mapping& mapping) {
  const int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char buffer[4096];
  size_t have = 0;
  bool found = false;
  while (!found) {
    const ssize_t n = read(fd, buffer + have, sizeof buffer - have);
    if (n <= 0) break;
    have += static_cast<size_t>(n);
    const char* line = buffer;
    while (const auto* newline =
               static_cast<const char*>(memchr(line, '\n', static_cast<size_t>(buffer + have - line)))) {
      if (ParseLine(line, newline, mapping) && address >= mapping.start && address < mapping.end) {
        found = true;
        break;
      }
      line = newline + 1;
    }
    have = static_cast<size_t>(buffer + have - line);
    memmove(buffer, line, have);
    if (have == sizeof buffer) have = 0;  // a line longer than the buffer is no mapping of a guest's
  }
  close(fd);
  return found;
}

// Zero pages over the whole mapping rather than the one page, so that a guest can cost us one mapping and not thousands
// (vm.max_map_count).
bool Replace(const Mapping& mapping) {
  return mmap(reinterpret_cast<void*>(mapping.start), mapping.end - mapping.start, PROT_READ | PROT_WRITE,
              MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}

void OnSigbus(int, siginfo_t* info, void*) {
  const int saved = errno;
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  Mapping mapping;
  if (info->si_code == BUS_ADRERR && FindMapping(address, mapping) && mapping.writable) {
    // No longer shared: another thread's fault has had it replaced meanwhile, and trying again succeeds.
    if (mapping.shared && !Replace(mapping)) signal(SIGBUS, SIG_DFL);
    if (mapping.shared) {
      const size_t n = g_hit_count.fetch_add(1);
      g_hits[n < kHits ? n : kHits - 1].store(address);
      errno = saved;
      return;
    }
    if (mapping.anonymous) {
      errno = saved;
      return;
    }
  }
  signal(SIGBUS, SIG_DFL);  // the access is tried again, and ends the process
}

}  // namespace

absl::Status InstallMemoryGuard() {
  struct sigaction action {};
  action.sa_sigaction = OnSigbus;
  action.sa_flags = SA_SIGINFO;
  if (sigaction(SIGBUS, &action, nullptr) != 0) return absl::ErrnoToStatus(errno, "memory guard: sigaction");
  return absl::OkStatus();
}

std::vector<uintptr_t> TakeMemoryGuardHits() {
  const size_t n = g_hit_count.exchange(0);
  std::vector<uintptr_t> hits;
  for (size_t i = 0; i < n && i < kHits; ++i) hits.push_back(g_hits[i].load());
  return hits;
}

}  // namespace everport
