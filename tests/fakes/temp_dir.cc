#include "tests/fakes/temp_dir.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/fakes/require.h"

namespace everport::fakes {

TempDir::TempDir() {
  const char* base = std::getenv("TMPDIR");
  std::string pattern = std::string(base != nullptr ? base : "/tmp") + "/ep-XXXXXX";
  FAKES_REQUIRE(::mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TempDir::Write(std::string_view name, std::string_view content) const {
  const std::string path = *this / name;
  {
    std::ofstream file(path + ".new", std::ios::trunc);
    file << content;
    FAKES_REQUIRE(file.good());
  }
  std::filesystem::rename(path + ".new", path);
  return path;
}

}  // namespace everport::fakes
