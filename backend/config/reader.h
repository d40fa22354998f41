#pragma once

// Reads typed values out of a JSON tree (which a TOML file was turned into as well) and words what is wrong with them,
// with the line where there is one. Internal to everport_config. Pure; any thread.

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "backend/config/check.h"
#include "backend/config/config.h"

namespace everport::config {

// "port[1].uplink[0].kind"
std::string Join(absl::string_view path, absl::string_view key);
std::string Join(absl::string_view path, size_t index);

// Where a document came from, and the first thing found wrong with it. Later faults are not kept: one fault often
// causes others.
class Source {
 public:
  // origin: what errors begin with, a file name or "port vm1"; empty: nothing.
  explicit Source(std::string origin) : origin_(std::move(origin)) {}

  void set_origin(std::string origin) { origin_ = std::move(origin); }
  void SetLine(std::string path, unsigned line) { lines_[std::move(path)] = line; }
  // The line of the path or of the nearest table around it; 0 if none is known.
  unsigned LineOf(absl::string_view path) const;

  // text: "cause; mend".
  void Fail(absl::string_view path, absl::string_view text, absl::StatusCode code = absl::StatusCode::kInvalidArgument);
  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

 private:
  std::string origin_;
  std::unordered_map<std::string, unsigned> lines_;
  absl::Status status_;
};

// One table of the document. A key that is not there leaves the default; any fault goes to the Source.
class Table {
 public:
  Table(Source& source, const boost::json::object& object, std::string path)
      : source_(source), object_(object), path_(std::move(path)) {}

  // Refuses keys that are not in `known`, and suggests the nearest.
  void AllowOnly(absl::Span<const absl::string_view> known) const;

  void Read(absl::string_view key, std::string& out) const;
  void Read(absl::string_view key, bool& out) const;
  template <typename T>
  void Read(absl::string_view key, T& out, Range<T> range) const {
    if (const auto value = Integer(key, range.min, range.max)) out = static_cast<T>(*value);
  }
  bool Has(absl::string_view key) const { return Find(key) != nullptr; }
  // nullptr if the key is not there, or (with a fault noted) is of another type.
  const boost::json::object* TableAt(absl::string_view key) const;
  // The tables of an array of tables; toml: how it is written in a file ("[[port]]").
  std::vector<const boost::json::object*> TablesAt(absl::string_view key, absl::string_view toml) const;
  const boost::json::value* Find(absl::string_view key) const { return object_.if_contains({key.data(), key.size()}); }

  std::string PathOf(absl::string_view key) const { return Join(path_, key); }
  Source& source() const { return source_; }

 private:
  std::optional<int64_t> Integer(absl::string_view key, int64_t min, int64_t max) const;

  Source& source_;
  const boost::json::object& object_;
  std::string path_;
};

// An integer in a range, or nothing with a fault noted at `path`.
std::optional<int64_t> ReadInteger(Source& source, const boost::json::value& value, const std::string& path,
                                   int64_t min, int64_t max);
// "is the string "x" where a table is wanted": what a value is, for messages.
std::string Describe(const boost::json::value& value);

// One port, without the rules of FindProblem.
PortConfig ReadPort(const Table& table);

// The nearest of `known` by edit distance, if it is near enough to be a slip of the pen; else empty.
absl::string_view Nearest(absl::string_view key, absl::Span<const absl::string_view> known);

}  // namespace everport::config
