#pragma once

// JSON from strangers: limited in size and depth, no key twice, every fault named by its field. Pure; any thread.

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace everport {

struct JsonLimits {
  size_t bytes = 64 * 1024;
  size_t depth = 6;
};
// InvalidArgument: longer or deeper, no JSON, or a key that an object has twice (which parsers resolve each in its
// way).
absl::StatusOr<boost::json::value> ParseStrictJson(std::string_view text, const JsonLimits& limits = {});

// Reads an object's members. The first fault is kept, "path.field: cause; mend", and all that follows is skipped over.
class JsonFields {
 public:
  // path: what stands before the fields' names; empty: nothing. A value that is no object is a fault.
  JsonFields(const boost::json::value& value, std::string path);

  // Of a member that must be there; a default-constructed value when there is a fault.
  std::string String(const char* key);
  uint64_t Number(const char* key, uint64_t min, uint64_t max);
  std::vector<std::string> Strings(const char* key);
  const boost::json::value& Value(const char* key);
  // Whether it is there and not null.
  bool Has(const char* key) const;

  // Refuses members of other names.
  void AllowOnly(std::initializer_list<std::string_view> known);
  void Fail(std::string_view key, std::string_view text);
  const absl::Status& status() const { return status_; }
  std::string PathOf(std::string_view key) const;

 private:
  void WrongType(std::string_view key, const boost::json::value& value, const char* wanted);

  const boost::json::object* object_ = nullptr;
  std::string path_;
  absl::Status status_;
};

// "a list", "the string \"x\"": what a value is, cut to a length that a message has room for.
std::string DescribeJson(const boost::json::value& value);
// In quotes, escaped, cut.
std::string QuoteUntrusted(std::string_view text);

}  // namespace everport
