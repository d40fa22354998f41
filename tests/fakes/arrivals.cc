#include "tests/fakes/arrivals.h"

#include <time.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "tests/fakes/test_frame.h"

namespace everport::fakes {

int64_t MonotonicNs() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1000000000} + now.tv_nsec;
}

std::string SequenceRuns::Json() const {
  std::string text = "[";
  for (const auto& [first, last] : runs_) absl::StrAppend(&text, text.size() > 1 ? ", [" : "[", first, ", ", last, "]");
  return text + "]";
}

void Arrivals::Saw(std::span<const uint8_t> frame, unsigned path) {
  const auto id = CheckTestFrame(frame);
  if (!id) {
    corrupted += IsTestFrame(frame);  // announcements are of another type
    return;
  }
  if (id->sequence < first_) {
    ++late;
    return;
  }
  const uint64_t at = id->sequence - first_;
  if (seen_.size() <= at) {
    seen_.resize(at + 1, kNowhere);
    times_.resize(at + 1);
  }
  const int64_t now = MonotonicNs();
  Path& by = paths_[path];
  if (seen_[at] != kNowhere) ++doubled;
  if (id->sequence < by.next) ++overtaken;
  by.next = id->sequence + 1;
  by.runs.Saw(id->sequence);
  if (by.received++ == 0) by.first_ns = now;
  by.last_ns = now;
  if (last_ns != 0 && now - last_ns > gap_to_ns - gap_from_ns) {
    gap_from_ns = last_ns;
    gap_to_ns = now;
  }
  last_ns = times_[at] = now;
  seen_[at] = static_cast<uint8_t>(path);
  ++received;
  last_path = path;
}

uint64_t Arrivals::Missing(uint64_t sent) const {
  const uint64_t expected = sent - std::min(sent, first_), known = std::min<uint64_t>(expected, seen_.size());
  const auto end = seen_.begin() + static_cast<std::ptrdiff_t>(known);
  return expected - known + static_cast<uint64_t>(std::count(seen_.begin(), end, kNowhere));
}

std::vector<double> Arrivals::Gaps() const {
  std::vector<double> gaps;
  for (size_t i = 1; i < seen_.size(); ++i) {
    if (seen_[i] != seen_[i - 1] && seen_[i] != kNowhere && seen_[i - 1] != kNowhere)
      gaps.push_back(static_cast<double>(std::max<int64_t>(0, times_[i] - times_[i - 1])) / 1e6);
  }
  std::sort(gaps.begin(), gaps.end());
  return gaps;
}

}  // namespace everport::fakes
