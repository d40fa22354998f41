#include "numa/cpu_list.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace everport {
namespace {

bool ParseCpu(absl::string_view text, unsigned& cpu) {
  // SimpleAtoi allows signs and blanks, a CPU list does not.
  const bool digits = !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
  return digits && absl::SimpleAtoi(text, &cpu) && cpu <= kMaxCpu;
}

bool ParseRange(absl::string_view text, unsigned& first, unsigned& last) {
  const size_t dash = text.find('-');
  if (dash == text.npos) return ParseCpu(text, first) && ParseCpu(text, last);
  return ParseCpu(text.substr(0, dash), first) && ParseCpu(text.substr(dash + 1), last) && first <= last;
}

}  // namespace

absl::StatusOr<std::vector<unsigned>> ParseCpuList(std::string_view text) {
  std::vector<unsigned> cpus;
  const absl::string_view all = absl::StripAsciiWhitespace(absl::string_view(text.data(), text.size()));
  if (all.empty()) return cpus;
  for (const absl::string_view part : absl::StrSplit(all, ',')) {
    unsigned first = 0, last = 0;
    if (!ParseRange(part, first, last)) {
      return absl::InvalidArgumentError(absl::StrCat("\"", absl::CHexEscape(part.substr(0, 40)),
                                                     "\" is not a CPU or a range of CPUs; write a list like 0-3,8"));
    }
    for (unsigned cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    // Keeps the list bounded whatever is repeated in the text.
    if (cpus.size() > 2 * kMaxCpu) {
      std::sort(cpus.begin(), cpus.end());
      cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
    }
  }
  std::sort(cpus.begin(), cpus.end());
  cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
  return cpus;
}

std::string FormatCpuList(std::vector<unsigned> cpus) {
  std::sort(cpus.begin(), cpus.end());
  cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
  std::string text;
  for (size_t i = 0; i < cpus.size();) {
    size_t end = i + 1;
    while (end < cpus.size() && cpus[end] == cpus[end - 1] + 1) ++end;
    absl::StrAppend(&text, text.empty() ? "" : ",", cpus[i]);
    if (end - i > 1) absl::StrAppend(&text, "-", cpus[end - 1]);
    i = end;
  }
  return text;
}

}  // namespace everport
