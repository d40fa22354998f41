#include "tests/fakes/test_frame.h"

#include <cstring>

#include "absl/strings/str_cat.h"

namespace everport::fakes {
namespace {
constexpr size_t kNumbers = 14;  // after the Ethernet header
constexpr size_t kPattern = kNumbers + 4 + 8 + 4;

uint64_t PatternStep(uint32_t stream, uint64_t sequence) {
  return ((sequence << 20) ^ stream) * 0x9e3779b97f4a7c15u | 1;
}

template <typename T>
T Load(const uint8_t* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}
}  // namespace

void FillTestFrame(std::span<uint8_t> frame, uint32_t stream, uint64_t sequence) {
  static constexpr uint8_t kEthernet[14] = {0x52, 0x54, 0, 0, 0xee, 2, 0x52, 0x54, 0, 0, 0xee, 1, 0x88, 0xb5};
  std::memcpy(frame.data(), kEthernet, sizeof kEthernet);
  const uint32_t length = static_cast<uint32_t>(frame.size());
  std::memcpy(frame.data() + kNumbers, &stream, 4);
  std::memcpy(frame.data() + kNumbers + 4, &sequence, 8);
  std::memcpy(frame.data() + kNumbers + 12, &length, 4);
  const uint64_t step = PatternStep(stream, sequence);
  uint64_t word = step;
  size_t at = kPattern;
  for (; at + 8 <= frame.size(); at += 8, word += step) std::memcpy(frame.data() + at, &word, 8);
  std::memcpy(frame.data() + at, &word, frame.size() - at);
}

bool IsTestFrame(std::span<const uint8_t> frame) {
  return frame.size() >= 14 && frame[12] == kTestFrameType >> 8 && frame[13] == (kTestFrameType & 0xff);
}

std::optional<TestFrameId> CheckTestFrame(std::span<const uint8_t> frame) {
  if (frame.size() < kTestFrameMin || !IsTestFrame(frame)) return std::nullopt;
  const auto stream = Load<uint32_t>(frame.data() + kNumbers);
  const auto sequence = Load<uint64_t>(frame.data() + kNumbers + 4);
  if (Load<uint32_t>(frame.data() + kNumbers + 12) != frame.size()) return std::nullopt;
  const uint64_t step = PatternStep(stream, sequence);
  uint64_t word = step, wrong = 0;
  size_t at = kPattern;
  for (; at + 8 <= frame.size(); at += 8, word += step) wrong |= Load<uint64_t>(frame.data() + at) ^ word;
  if (wrong != 0 || std::memcmp(frame.data() + at, &word, frame.size() - at) != 0) return std::nullopt;
  return TestFrameId{stream, sequence};
}

namespace {

// What everport itself sends to announce a guest that has come or moved.
bool IsRarp(std::span<const uint8_t> frame) {
  return frame.size() >= 14 && frame[12] == 0x80 && frame[13] == 0x35;
}

}  // namespace

std::optional<TestFrameId> FrameLedger::Saw(std::span<const uint8_t> frame) {
  if (IsRarp(frame)) return std::nullopt;
  ++received;
  const auto id = CheckTestFrame(frame);
  if (!id) {
    ++corrupted;
    if (first_fault.empty()) first_fault = absl::StrCat("a corrupted frame of ", frame.size(), " bytes");
    return std::nullopt;
  }
  uint64_t& next = next_[id->stream];
  if (id->sequence < next) {
    ++repeated;
    if (first_fault.empty()) {
      first_fault = absl::StrCat("stream ", id->stream, ": ", id->sequence, " came when ", next, " was due");
    }
    return std::nullopt;
  }
  missing += id->sequence - next;
  next = id->sequence + 1;
  return id;
}

}  // namespace everport::fakes
