#include "backend/datapath/memory_guard.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/base/unique_fd.h"

namespace everport {
namespace {

constexpr size_t kSize = 64 * 4096;

struct Shared {
  explicit Shared(int sharing) : fd(memfd_create("guest", MFD_CLOEXEC)) {
    EXPECT_EQ(ftruncate(fd.get(), kSize), 0);
    at = static_cast<volatile char*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, sharing, fd.get(), 0));
  }
  ~Shared() { munmap(const_cast<char*>(at), kSize); }
  UniqueFd fd;
  volatile char* at;
};

TEST(MemoryGuard, AShortenedSharedFileReadsAsZerosAndIsReported) {
  ASSERT_TRUE(InstallMemoryGuard().ok());
  Shared memory(MAP_SHARED);
  memory.at[5 * 4096] = 'x';
  ASSERT_EQ(ftruncate(memory.fd.get(), 0), 0);
  EXPECT_EQ(memory.at[5 * 4096 + 7], 0);
  memory.at[0] = 'y';  // patched with the first: no second fault
  const auto hits = TakeMemoryGuardHits();
  ASSERT_EQ(hits.size(), 1u);
  EXPECT_EQ(hits[0], reinterpret_cast<uintptr_t>(memory.at) + 5 * 4096 + 7);
  EXPECT_TRUE(TakeMemoryGuardHits().empty());
}

TEST(MemoryGuardDeathTest, AFaultInAPrivateMappingStaysFatal) {
  EXPECT_DEATH(
      {
        (void)InstallMemoryGuard();
        Shared memory(MAP_PRIVATE);
        (void)ftruncate(memory.fd.get(), 0);
        (void)memory.at[0];
      },
      "");
}

}  // namespace
}  // namespace everport
