#pragma once

#include <string>
#include <string_view>

namespace everport::fakes {

// A fresh folder under $TMPDIR or /tmp with a short name (unix socket paths end at 107 bytes), removed with all in it.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }
  // Writes a file in it (atomically, by rename) and gives its path.
  std::string Write(std::string_view name, std::string_view content) const;

 private:
  std::string path_;
};

}  // namespace everport::fakes
