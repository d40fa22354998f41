#include "migration/strict_json.h"

#include <algorithm>
#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace everport {
namespace {

namespace json = boost::json;

// Boost.JSON's parse() keeps the last of equal keys and says nothing; this listens to the same parser for the first one
// that comes twice.
struct DuplicateFinder {
  static constexpr size_t max_object_size = static_cast<size_t>(-1);
  static constexpr size_t max_array_size = static_cast<size_t>(-1);
  static constexpr size_t max_key_size = static_cast<size_t>(-1);
  static constexpr size_t max_string_size = static_cast<size_t>(-1);

  std::vector<std::set<std::string>> open;  // keys of the objects that have begun and not ended
  std::string key;
  std::optional<std::string> twice;

  bool on_document_begin(json::error_code&) { return true; }
  bool on_document_end(json::error_code&) { return true; }
  bool on_object_begin(json::error_code&) {
    open.emplace_back();
    return true;
  }
  bool on_object_end(size_t, json::error_code&) {
    open.pop_back();
    return true;
  }
  bool on_array_begin(json::error_code&) { return true; }
  bool on_array_end(size_t, json::error_code&) { return true; }
  bool on_key_part(json::string_view part, size_t, json::error_code&) {
    key.append(part.data(), part.size());
    return true;
  }
  bool on_key(json::string_view part, size_t, json::error_code&) {
    key.append(part.data(), part.size());
    if (!open.back().insert(key).second && !twice) twice = key;
    key.clear();
    return true;
  }
  bool on_string_part(json::string_view, size_t, json::error_code&) { return true; }
  bool on_string(json::string_view, size_t, json::error_code&) { return true; }
  bool on_number_part(json::string_view, json::error_code&) { return true; }
  bool on_int64(int64_t, json::string_view, json::error_code&) { return true; }
  bool on_uint64(uint64_t, json::string_view, json::error_code&) { return true; }
  bool on_double(double, json::string_view, json::error_code&) { return true; }
  bool on_bool(bool, json::error_code&) { return true; }
  bool on_null(json::error_code&) { return true; }
  bool on_comment_part(json::string_view, json::error_code&) { return true; }
  bool on_comment(json::string_view, json::error_code&) { return true; }
};

std::optional<std::string> KeyThatComesTwice(std::string_view text, const json::parse_options& options) {
  json::basic_parser<DuplicateFinder> parser(options);
  json::error_code error;
  parser.write_some(/*more=*/false, text.data(), text.size(), error);
  return parser.handler().twice;
}

const json::value& Null() {
  static const json::value null;
  return null;
}

}  // namespace

absl::StatusOr<json::value> ParseStrictJson(std::string_view text, const JsonLimits& limits) {
  if (text.size() > limits.bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("is ", text.size(), " bytes long, more than ", limits.bytes, "; is this the right file?"));
  }
  json::parse_options options;
  options.max_depth = limits.depth;
  json::error_code error;
  json::value value = json::parse(json::string_view(text.data(), text.size()), error, {}, options);
  if (error == json::error::too_deep) {
    return absl::InvalidArgumentError(
        absl::StrCat("lists or objects lie more than ", limits.depth, " deep; is this the right file?"));
  }
  if (error) return absl::InvalidArgumentError(absl::StrCat("not valid JSON: ", error.message(), "; correct it"));
  if (const auto twice = KeyThatComesTwice(text, options)) {
    return absl::InvalidArgumentError(
        absl::StrCat(QuoteUntrusted(*twice), ": the key is there twice; take one of them out"));
  }
  return value;
}

JsonFields::JsonFields(const json::value& value, std::string path)
    : object_(value.if_object()), path_(std::move(path)) {
  if (!object_)
    status_ = absl::InvalidArgumentError(absl::StrCat(path_, path_.empty() ? "" : ": ", "is ", DescribeJson(value),
                                                      " where an object is wanted; write {…}"));
}

std::string JsonFields::PathOf(std::string_view key) const {
  return absl::StrCat(path_, path_.empty() ? "" : ".", std::string(key));
}

void JsonFields::Fail(std::string_view key, std::string_view text) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(PathOf(key), ": ", std::string(text)));
}

void JsonFields::WrongType(std::string_view key, const json::value& value, const char* wanted) {
  Fail(key, absl::StrCat("is ", DescribeJson(value), " where ", wanted, " is wanted; write ", wanted));
}

bool JsonFields::Has(const char* key) const {
  const json::value* value = object_ ? object_->if_contains(key) : nullptr;
  return value && !value->is_null();
}

const json::value& JsonFields::Value(const char* key) {
  const json::value* value = object_ ? object_->if_contains(key) : nullptr;
  if (!value) Fail(key, "is missing; add it");
  return value ? *value : Null();
}

std::string JsonFields::String(const char* key) {
  const json::value& value = Value(key);
  if (const json::string* text = value.if_string()) return std::string(text->data(), text->size());
  WrongType(key, value, "a string");
  return {};
}

uint64_t JsonFields::Number(const char* key, uint64_t min, uint64_t max) {
  const json::value& value = Value(key);
  if (!value.is_int64() && !value.is_uint64()) {
    WrongType(key, value, "an integer");
    return 0;
  }
  const bool negative = value.is_int64() && value.get_int64() < 0;
  const uint64_t number = value.is_uint64() ? value.get_uint64() : static_cast<uint64_t>(value.get_int64());
  if (!negative && number >= min && number <= max) return number;
  Fail(key, absl::StrCat(std::string(json::serialize(value)), " is out of range; use ", min, " to ", max));
  return 0;
}

std::vector<std::string> JsonFields::Strings(const char* key) {
  const json::value& value = Value(key);
  std::vector<std::string> texts;
  const json::array* list = value.if_array();
  if (!list) {
    WrongType(key, value, "a list of strings");
    return texts;
  }
  for (size_t i = 0; i < list->size(); ++i) {
    const json::string* text = (*list)[i].if_string();
    if (!text) WrongType(absl::StrCat(key, "[", i, "]"), (*list)[i], "a string");
    if (text) texts.emplace_back(text->data(), text->size());
  }
  return texts;
}

void JsonFields::AllowOnly(std::initializer_list<std::string_view> known) {
  if (!object_) return;
  for (const auto& member : *object_) {
    const std::string_view key(member.key().data(), member.key().size());
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    const std::vector<std::string> names(known.begin(), known.end());
    return Fail(QuoteUntrusted(key), absl::StrCat("unknown field; known here are ", absl::StrJoin(names, ", ")));
  }
}

std::string QuoteUntrusted(std::string_view text) {
  constexpr size_t kMost = 80;
  const absl::string_view shown(text.data(), std::min(text.size(), kMost));
  // Cut in the middle of a character or not, and valid or not: the message is ASCII.
  return absl::StrCat("\"", absl::CHexEscape(shown), text.size() > kMost ? "…" : "", "\"");
}

std::string DescribeJson(const json::value& value) {
  if (const json::string* text = value.if_string())
    return absl::StrCat("the string ", QuoteUntrusted({text->data(), text->size()}));
  if (value.is_array()) return "a list";
  if (value.is_object()) return "an object";
  return value.is_number() ? absl::StrCat("the number ", std::string(json::serialize(value)))
                           : std::string(json::serialize(value));
}

}  // namespace everport
