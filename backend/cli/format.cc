#include "backend/cli/format.h"

#include <boost/json/serialize.hpp>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace everport::cli {
namespace {

const boost::json::value* Find(const boost::json::value& value, const char* pointer) {
  boost::json::error_code error;
  return value.find_pointer(pointer, error);
}

// The mend, and what else stands behind the cause, is for `port show`.
std::string Short(const std::string& text) {
  constexpr size_t kLongest = 80;
  const std::string cause = text.substr(0, text.find("; "));
  return cause.size() <= kLongest ? cause : cause.substr(0, kLongest - 3) + "...";
}

}  // namespace

std::string Scaled(double value, const std::string& unit) {
  static constexpr const char* kPrefixes[] = {"", "k", "M", "G", "T", "P", "E"};
  size_t prefix = 0;
  // 999.5 would be shown as 1000.
  while (value >= 999.5 && prefix + 1 < std::size(kPrefixes)) {
    value /= 1000;
    ++prefix;
  }
  char digits[32];
  const int decimals = prefix == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  std::snprintf(digits, sizeof digits, "%.*f", decimals, value);
  return absl::StrCat(digits, " ", kPrefixes[prefix], unit);
}

std::string Text(const boost::json::value& value, const char* pointer) {
  const boost::json::value* found = Find(value, pointer);
  if (!found || found->is_null()) return "";
  if (const auto* text = found->if_string()) return std::string(text->data(), text->size());
  return boost::json::serialize(*found);
}

uint64_t Number(const boost::json::value& value, const char* pointer) {
  const boost::json::value* found = Find(value, pointer);
  boost::json::error_code error;
  const uint64_t number = found && found->is_number() ? found->to_number<uint64_t>(error) : 0;
  return error ? 0 : number;
}

std::string PathText(const boost::json::value& port) {
  const std::string index = IndexText(port, "/path/index");
  if (index.empty()) return "";
  const std::string device = Text(port, absl::StrCat("/uplinks/", index, "/device").c_str());
  return absl::StrCat(index, " ", Text(port, "/path/kind"), device.empty() ? "" : ":", device);
}

std::string StateNote(const boost::json::value& port) {
  std::string reason = Text(port, "/reason");
  if (!reason.empty()) return reason;
  if (Text(port, "/postcopy_progress/phase") == "listening") {
    const auto* const seconds = Find(port, "/postcopy_progress/seconds");
    return absl::StrFormat("arrives by post-copy, for %.1f s now",
                           seconds && seconds->is_number() ? seconds->to_number<double>() : 0.0);
  }
  const std::string state = Text(port, "/state");
  if (state == "waiting") return absl::StrCat("no QEMU listens on ", Text(port, "/socket"));
  if (state == "connected") return "the guest's driver has not started";
  return "";
}

std::string NoteText(const boost::json::value& port) {
  // Where a guest runs, its missing path is in the state's reason.
  std::string why = IndexText(port, "/path/index").empty() ? "" : Text(port, "/path/reason");
  if (why == "first choice") why.clear();
  const std::string state = Short(StateNote(port));
  return absl::StrCat(state, state.empty() || why.empty() ? "" : "; ", Short(why));
}

std::string IndexText(const boost::json::value& value, const char* pointer) {
  const std::string text = Text(value, pointer);
  return text == "-1" ? "" : text;
}

}  // namespace everport::cli
