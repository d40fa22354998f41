#pragma once

// Which test frames of one stream have arrived, by which path and when.

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace everport::fakes {

// Time since boot; the same clock for all processes of a machine.
int64_t MonotonicNs();

// Sequence numbers, as runs without a gap: [first, last], in the order of arrival.
class SequenceRuns {
 public:
  void Saw(uint64_t sequence) {
    if (!runs_.empty() && sequence == runs_.back().second + 1) {
      runs_.back().second = sequence;
    } else {
      runs_.emplace_back(sequence, sequence);
    }
  }
  const std::vector<std::pair<uint64_t, uint64_t>>& runs() const { return runs_; }
  std::string Json() const;  // [[first, last], …]

 private:
  std::vector<std::pair<uint64_t, uint64_t>> runs_;
};

class Arrivals {
 public:
  // first: the lowest sequence that is expected. Paths are numbered from 0.
  explicit Arrivals(unsigned paths = 1, uint64_t first = 0) : paths_(paths), first_(first) {}

  void Saw(std::span<const uint8_t> frame, unsigned path);

  struct Path {
    uint64_t received = 0, next = 0;
    int64_t first_ns = 0, last_ns = 0;  // when; 0: no frame yet
    SequenceRuns runs;
  };
  const Path& path(unsigned index) const { return paths_[index]; }

  // Of those below `sent`.
  uint64_t Missing(uint64_t sent) const;
  // How long nothing came where a frame came by another path than the one before it, milliseconds, sorted. There are
  // no more such places than switches if no frame of the old path came behind one of the new.
  std::vector<double> Gaps() const;

  uint64_t received = 0, doubled = 0, overtaken = 0, corrupted = 0;
  uint64_t late = 0;  // of those before the first; not counted as received
  unsigned last_path = 0;
  int64_t last_ns = 0;
  // The longest time between two arrivals, by whatever path: when it began and ended.
  int64_t gap_from_ns = 0, gap_to_ns = 0;

 private:
  static constexpr uint8_t kNowhere = 255;
  std::vector<Path> paths_;
  uint64_t first_;
  std::vector<uint8_t> seen_;  // by sequence: path
  std::vector<int64_t> times_;
};

}  // namespace everport::fakes
