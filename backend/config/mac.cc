#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "backend/config/check.h"
#include "backend/config/config.h"

namespace everport {

std::string FormatMac(const uint8_t mac[6]) {
  return absl::StrFormat("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

bool ParseMac(std::string_view text, uint8_t mac[6]) {
  if (text.size() != 17) return false;
  const auto digit = [](char c) -> int { return absl::ascii_isdigit(c) ? c - '0' : absl::ascii_tolower(c) - 'a' + 10; };
  uint8_t parsed[6];
  for (size_t i = 0; i < 6; ++i) {
    const char high = text[3 * i], low = text[3 * i + 1];
    if (!absl::ascii_isxdigit(high) || !absl::ascii_isxdigit(low) || (i < 5 && text[3 * i + 2] != ':')) return false;
    parsed[i] = static_cast<uint8_t>(digit(high) << 4 | digit(low));
  }
  std::copy(parsed, parsed + 6, mac);
  return true;
}

namespace config {

std::string DefaultMac(absl::string_view port_name) {
  uint32_t hash = 2166136261u;
  for (const char c : port_name) hash = (hash ^ static_cast<uint8_t>(c)) * 16777619u;
  const uint32_t folded = (hash >> 24) ^ (hash & 0xffffff);
  const uint8_t mac[6] = {0x52,
                          0x54,
                          0x00,
                          static_cast<uint8_t>(folded >> 16),
                          static_cast<uint8_t>(folded >> 8),
                          static_cast<uint8_t>(folded)};
  return FormatMac(mac);
}

}  // namespace config
}  // namespace everport
