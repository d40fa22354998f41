// What we rely on in the kernel.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "backend/base/unique_fd.h"
#include "backend/base/unix_address.h"
#include "tests/fakes/temp_dir.h"
#include "tests/fakes/vhost_socket.h"

namespace everport::assumptions {
namespace {

int Connect(const std::string& path) {
  const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
  const auto address = UnixAddress::Of(path).value();
  return ::connect(fd.get(), address.get(), address.size()) == 0 ? 0 : errno;
}

// A server's socket is in the folder as soon as it is bound, and refuses until it listens. So who watches the folder
// must try again shortly after an ECONNREFUSED: nothing tells of listen().
TEST(UnixSocket, IsThereFromBindAndTakesConnectionsFromListen) {
  const fakes::TempDir dir;
  const UniqueFd watch(::inotify_init1(IN_NONBLOCK));
  ASSERT_GE(::inotify_add_watch(watch.get(), dir.path().c_str(), IN_CREATE | IN_MOVED_TO), 0);
  const UniqueFd server(::socket(AF_UNIX, SOCK_STREAM, 0));
  const auto address = UnixAddress::Of(dir / "s").value();
  ASSERT_EQ(::bind(server.get(), address.get(), address.size()), 0);
  EXPECT_TRUE(fakes::WaitFd(watch.get(), POLLIN, absl::ZeroDuration())) << "inotify tells of bind";
  char events[4096];
  ASSERT_GT(::read(watch.get(), events, sizeof events), 0);
  EXPECT_EQ(Connect(dir / "s"), ECONNREFUSED);
  ASSERT_EQ(::listen(server.get(), 1), 0);
  EXPECT_FALSE(fakes::WaitFd(watch.get(), POLLIN, absl::ZeroDuration())) << "and not of listen";
  EXPECT_EQ(Connect(dir / "s"), 0);
}

off_t PagesOf(const UniqueFd& memfd) {
  struct stat st {};
  EXPECT_EQ(::fstat(memfd.get(), &st), 0);
  return st.st_blocks * 512 / 4096;
}

// While a guest arrives by post-copy its missing pages are holes in a memfd, and must stay so until QEMU fills them: to
// read one by read(2) leaves it, and to write where a page is adds none. (To touch one in a mapping does, even to
// read.)
TEST(Memfd, AHoleThatIsReadByACallStaysOne) {
  const UniqueFd fd(::memfd_create("assumption", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(fd.get(), 8 * 4096), 0);
  uint64_t value = 1;
  ASSERT_EQ(::pread(fd.get(), &value, sizeof value, 4096), static_cast<ssize_t>(sizeof value));
  EXPECT_EQ(value, 0u);
  EXPECT_EQ(PagesOf(fd), 0);
  auto* map = static_cast<volatile uint8_t*>(::mmap(nullptr, 8 * 4096, PROT_READ, MAP_SHARED, fd.get(), 0));
  ASSERT_NE(map, MAP_FAILED);
  EXPECT_EQ(map[5000], 0);
  EXPECT_EQ(PagesOf(fd), 1);
  ASSERT_EQ(::pwrite(fd.get(), &value, sizeof value, 6000), static_cast<ssize_t>(sizeof value));
  EXPECT_EQ(PagesOf(fd), 1);
  ::munmap(const_cast<uint8_t*>(map), 8 * 4096);
}

// A sender may cut a memfd short under whoever has mapped it, and touching it is then SIGBUS; a file's size can only be
// checked when it is mapped.
TEST(Memfd, CutShortIsSigbusForWhoeverTouchesIt) {
  const UniqueFd fd(::memfd_create("assumption", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(fd.get(), 8192), 0);
  auto* map = static_cast<volatile uint8_t*>(::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0));
  ASSERT_NE(map, MAP_FAILED);
  map[5000] = 1;
  ASSERT_EQ(::ftruncate(fd.get(), 4096), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGBUS, SIG_DFL);
    map[5000] = 2;
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
  // An anonymous page put over the hole makes the address safe again: what a SIGBUS handler can do.
  void* page = const_cast<uint8_t*>(map) + 4096;
  ASSERT_EQ(::mmap(page, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), page);
  map[5000] = 3;
  EXPECT_EQ(map[5000], 3);
  ::munmap(const_cast<uint8_t*>(map), 8192);
}

// The kick's eventfd is shared by QEMU, the keeper and the daemon: edge-triggered epoll tells of every write, also when
// nobody reads the counter down; and the counter stays for the next daemon.
TEST(Eventfd, EdgeTriggeredTellsOfEachKickWithoutReading) {
  const UniqueFd kick(::eventfd(0, EFD_NONBLOCK)), epoll(::epoll_create1(0));
  epoll_event want{.events = EPOLLIN | EPOLLET, .data = {.u64 = 0}};
  ASSERT_EQ(::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, kick.get(), &want), 0);
  epoll_event got;
  EXPECT_EQ(::epoll_wait(epoll.get(), &got, 1, 0), 0);
  for (int i = 0; i < 3; ++i) {
    const uint64_t one = 1;
    ASSERT_EQ(::write(kick.get(), &one, sizeof one), 8);
    EXPECT_EQ(::epoll_wait(epoll.get(), &got, 1, 1000), 1);
    EXPECT_EQ(::epoll_wait(epoll.get(), &got, 1, 0), 0);
  }
  uint64_t count = 0;
  ASSERT_EQ(::read(kick.get(), &count, sizeof count), 8);
  EXPECT_EQ(count, 3u);
}

// A memfd received over a socket is the same file, whoever dies: pages written by a killed process are there for the
// next.
TEST(Memfd, OutlivesAProcessThatWasKilled) {
  const UniqueFd fd(::memfd_create("assumption", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(fd.get(), 4096), 0);
  auto* page = static_cast<volatile uint64_t*>(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0));
  ASSERT_NE(page, MAP_FAILED);
  const pid_t child = ::fork();
  if (child == 0) {
    page[7] = 0x1234;
    ::kill(::getpid(), SIGKILL);
  }
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_EQ(page[7], 0x1234u);
  ::munmap(const_cast<uint64_t*>(page), 4096);
}

}  // namespace
}  // namespace everport::assumptions
