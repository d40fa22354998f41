#include "backend/keeper/index_page_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace everport {

absl::StatusOr<IndexPageFile> IndexPageFile::Create() {
  UniqueFd fd(::memfd_create("everport-index-page", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  void* map = MAP_FAILED;
  if (fd.valid() && ::ftruncate(fd.get(), sizeof(IndexPage)) == 0 &&
      ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
    map = ::mmap(nullptr, sizeof(IndexPage), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (map == MAP_FAILED) return absl::UnavailableError(absl::StrCat("index page: ", std::strerror(errno)));
  auto* page = static_cast<IndexPage*>(map);
  page->version = kIndexPageVersion;
  page->generation = 1;
  page->magic = kIndexPageMagic;
  return IndexPageFile(std::move(fd), page);
}

IndexPageFile::~IndexPageFile() {
  if (page_) ::munmap(page_, sizeof(IndexPage));
}

}  // namespace everport
