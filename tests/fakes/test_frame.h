#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>

namespace everport::fakes {

// A frame whose every byte follows from (stream, sequence, length): Ethernet of a type nobody parses (0x88b5, IEEE
// local experimental), then the three numbers, then a pattern. 64 … 65535 bytes.
inline constexpr size_t kTestFrameMin = 60;
inline constexpr uint16_t kTestFrameType = 0x88b5;
void FillTestFrame(std::span<uint8_t> frame, uint32_t stream, uint64_t sequence);

struct TestFrameId {
  uint32_t stream = 0;
  uint64_t sequence = 0;
};
// Whether it is of that type.
bool IsTestFrame(std::span<const uint8_t> frame);
// The numbers, if every byte but the Ethernet addresses is as FillTestFrame wrote it; else nothing.
std::optional<TestFrameId> CheckTestFrame(std::span<const uint8_t> frame);

// What a receiver saw: per stream the sequence must rise. Gaps are frames lost on the way, which is counted, not
// judged.
class FrameLedger {
 public:
  // The frame's numbers, if it is one that was due.
  std::optional<TestFrameId> Saw(std::span<const uint8_t> frame);

  uint64_t received = 0;
  uint64_t corrupted = 0;
  uint64_t repeated = 0;    // a sequence not above the last one of its stream: seen twice, or out of order
  uint64_t missing = 0;     // sequences passed over
  std::string first_fault;  // which frame, for the test's message

 private:
  std::map<uint32_t, uint64_t> next_;  // by stream
};

}  // namespace everport::fakes
