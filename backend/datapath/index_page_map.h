#pragma once

#include <sys/mman.h>

#include <memory>

#include "backend/base/unique_fd.h"
#include "backend/keeper/index_page.h"

namespace everport {

// A port's index page mapped into this process. Unmapped when destroyed, which must be after the last burst.
class IndexPageMap {
 public:
  // nullptr when it cannot be mapped or is not an index page of this version.
  static std::shared_ptr<IndexPageMap> Map(const UniqueFd& fd) {
    void* at = mmap(nullptr, sizeof(IndexPage), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (at == MAP_FAILED) return nullptr;
    std::shared_ptr<IndexPageMap> map(new IndexPageMap(static_cast<IndexPage*>(at)));
    return map->page_->magic == kIndexPageMagic && map->page_->version == kIndexPageVersion ? map : nullptr;
  }
  ~IndexPageMap() { munmap(page_, sizeof(IndexPage)); }
  IndexPageMap(const IndexPageMap&) = delete;
  IndexPageMap& operator=(const IndexPageMap&) = delete;

  IndexPageVring& vring(unsigned index) const { return page_->vrings[index]; }

 private:
  explicit IndexPageMap(IndexPage* page) : page_(page) {}
  IndexPage* page_;
};

}  // namespace everport
