#pragma once

#include "absl/status/statusor.h"
#include "backend/base/unique_fd.h"
#include "backend/keeper/index_page.h"

namespace everport {

// A port's index page (index_page.h): a memfd sealed against shrinking, so that whoever else maps it cannot make us
// fault, and sparse, so that an idle port costs two pages of memory. Mapped while this lives.
class IndexPageFile {
 public:
  static absl::StatusOr<IndexPageFile> Create();
  ~IndexPageFile();
  IndexPageFile(IndexPageFile&& other) noexcept
      : fd_(std::move(other.fd_)), page_(std::exchange(other.page_, nullptr)) {}
  IndexPageFile& operator=(IndexPageFile&&) = delete;

  IndexPage* page() const { return page_; }
  int fd() const { return fd_.get(); }

 private:
  IndexPageFile(UniqueFd fd, IndexPage* page) : fd_(std::move(fd)), page_(page) {}
  UniqueFd fd_;
  IndexPage* page_;
};

}  // namespace everport
