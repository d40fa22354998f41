#pragma once

// Reads typed values out of a JSON tree (which a TOML file was turned into as well) and words what is wrong with them,
// with the line where there is one. Internal to everport_config. Pure; any thread.

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <set>
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

// Where a document came from, and what was found wrong with it. One fault often causes others, so a key has one fault
// at most, and what is said of a table when one of its keys is at fault is dropped.
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
  // Those of a port at `path`, but for what follows from an uplink's unknown kind.
  void FailAll(absl::string_view path, const std::vector<Problem>& problems);
  // Whatever else is said of this path follows from a fault that is known already.
  void Excuse(std::string path) { failed_.insert(std::move(path)); }
  bool ok() const { return faults_.empty(); }
  // Whether this path or one below it has a fault.
  bool Failed(absl::string_view path) const;
  // The first fault alone, "origin:line: path: text".
  absl::Status status() const;
  // All of them by line, one a line, with the first one's code.
  absl::Status all() const;

 private:
  struct Fault {
    unsigned line;
    absl::Status status;
  };

  std::string origin_;
  std::unordered_map<std::string, unsigned> lines_;
  std::set<std::string> failed_;
  std::vector<Fault> faults_;
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
  // The strings of a list; with a fault noted, what there is of it.
  std::vector<std::string> Strings(absl::string_view key) const;
  // nullptr if the key is not there, or (with a fault noted) is of another type.
  const boost::json::object* TableAt(absl::string_view key) const;
  // The tables of an array of tables, nullptr for what is none (with a fault noted); toml: how it is written in a file
  // ("[[port]]").
  std::vector<const boost::json::object*> TablesAt(absl::string_view key, absl::string_view toml) const;
  // A list of strings; empty if the key is not there, or with a fault noted.
  std::vector<std::string> StringsAt(absl::string_view key) const;
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

// [daemon.listen], with the faults of each key.
ListenConfig ReadListen(const Table& table);

// [libvirt], with the faults of each key. contracts: nullptr: not known.
LibvirtConfig ReadLibvirt(const Table& table, const ContractSet* contracts);

// The [[…uplink]] tables of a port, or of what is to be one; toml: how they are written.
std::vector<UplinkConfig> ReadUplinks(const Table& table, absl::string_view toml);
// One port, without the rules of FindProblem.
PortConfig ReadPort(const Table& table);
// The [[contract]] tables of the file, with the built-in contracts before them. Those with a fault are left out.
ContractSet ReadContracts(const Table& root);

// The nearest of `known` by edit distance, if it is near enough to be a slip of the pen; else empty.
absl::string_view Nearest(absl::string_view key, absl::Span<const absl::string_view> known);

}  // namespace everport::config
