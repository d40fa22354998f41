#include "backend/config/reader.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_join.h"

namespace everport::config {
namespace {

size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substitute = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({substitute, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

std::string WrongType(const boost::json::value& value, absl::string_view wanted) {
  return absl::StrCat("is ", Describe(value), " where ", wanted, " is wanted; write ", wanted);
}

// Keys come from outside too: one that is not a bare TOML key is shown quoted and escaped.
std::string ShownKey(absl::string_view key) {
  const bool bare = !key.empty() && key.size() <= 120 && std::all_of(key.begin(), key.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '_' || c == '-';
  });
  return bare ? std::string(key) : Quote(key);
}

}  // namespace

std::string Join(absl::string_view path, absl::string_view key) {
  return path.empty() ? ShownKey(key) : absl::StrCat(path, ".", ShownKey(key));
}

std::string Join(absl::string_view path, size_t index) {
  return absl::StrCat(path, "[", index, "]");
}

unsigned Source::LineOf(absl::string_view path) const {
  while (!path.empty()) {
    if (const auto it = lines_.find(std::string(path)); it != lines_.end()) return it->second;
    const size_t cut = path.find_last_of(".[");
    path = cut == path.npos ? absl::string_view() : path.substr(0, cut);
  }
  return 0;
}

void Source::Fail(absl::string_view path, absl::string_view text, absl::StatusCode code) {
  if (Failed(path)) return;
  failed_.insert(std::string(path));
  const unsigned line = LineOf(path);
  std::string message = origin_;
  if (line > 0) absl::StrAppend(&message, ":", line);
  for (const absl::string_view part : {path, text}) {
    if (!part.empty()) absl::StrAppend(&message, message.empty() ? "" : ": ", part);
  }
  faults_.push_back({line, absl::Status(code, message)});
}

void Source::FailAll(absl::string_view path, const std::vector<Problem>& problems) {
  for (const Problem& problem : problems) {
    const std::string full = path.empty() ? problem.key : absl::StrCat(path, ".", problem.key);
    const size_t table = full.rfind("].");
    if (table != full.npos && Failed(absl::StrCat(full.substr(0, table), "].kind"))) continue;
    Fail(full, problem.text, problem.code);
  }
}

bool Source::Failed(absl::string_view path) const {
  const auto it = failed_.lower_bound(std::string(path));
  if (it == failed_.end()) return false;
  if (path.empty() || *it == path) return true;
  return failed_.lower_bound(absl::StrCat(path, ".")) != failed_.lower_bound(absl::StrCat(path, "/")) ||
         failed_.lower_bound(absl::StrCat(path, "[")) != failed_.lower_bound(absl::StrCat(path, "\\"));
}

absl::Status Source::status() const {
  return ok() ? absl::OkStatus() : faults_.front().status;
}

absl::Status Source::all() const {
  if (ok()) return absl::OkStatus();
  std::vector<const Fault*> sorted;
  for (const Fault& fault : faults_) sorted.push_back(&fault);
  std::stable_sort(sorted.begin(), sorted.end(), [](const Fault* a, const Fault* b) { return a->line < b->line; });
  constexpr size_t kMost = 50;
  const size_t shown = std::min(sorted.size(), kMost);
  std::string text =
      absl::StrJoin(sorted.begin(), sorted.begin() + static_cast<ptrdiff_t>(shown), "\n",
                    [](std::string* out, const Fault* fault) { absl::StrAppend(out, fault->status.message()); });
  if (sorted.size() > shown)
    absl::StrAppend(&text, "\n", origin_, ": ", sorted.size() - shown, " more; mend these first");
  return absl::Status(sorted.front()->status.code(), text);
}

void Table::AllowOnly(absl::Span<const absl::string_view> known) const {
  for (const auto& entry : object_) {
    const absl::string_view key(entry.key().data(), entry.key().size());
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    const absl::string_view near = Nearest(key, known);
    if (!near.empty() && !Has(near)) source_.Excuse(PathOf(near));  // it is there, but for the slip of the pen
    source_.Fail(PathOf(key), near.empty() ? absl::StrCat("unknown key; known here are ", absl::StrJoin(known, ", "))
                                           : absl::StrCat("unknown key; did you mean ", near, "?"));
  }
}

void Table::Read(absl::string_view key, std::string& out) const {
  const boost::json::value* value = Find(key);
  if (!value) return;
  if (const auto* text = value->if_string()) {
    out.assign(text->data(), text->size());
  } else {
    source_.Fail(PathOf(key), WrongType(*value, "a string"));
  }
}

void Table::Read(absl::string_view key, bool& out) const {
  const boost::json::value* value = Find(key);
  if (!value) return;
  if (const bool* flag = value->if_bool()) {
    out = *flag;
  } else {
    source_.Fail(PathOf(key), WrongType(*value, "true or false"));
  }
}

std::optional<int64_t> Table::Integer(absl::string_view key, int64_t min, int64_t max) const {
  const boost::json::value* value = Find(key);
  if (!value) return std::nullopt;
  return ReadInteger(source_, *value, PathOf(key), min, max);
}

std::vector<std::string> Table::Strings(absl::string_view key) const {
  std::vector<std::string> texts;
  const boost::json::value* value = Find(key);
  if (!value) return texts;
  const auto* list = value->if_array();
  if (!list) source_.Fail(PathOf(key), WrongType(*value, "a list of strings"));
  for (size_t i = 0; list && i < list->size(); ++i) {
    const auto* text = (*list)[i].if_string();
    if (!text) source_.Fail(Join(PathOf(key), i), WrongType((*list)[i], "a string"));
    texts.emplace_back(text ? std::string(text->data(), text->size()) : std::string());
  }
  return texts;
}

const boost::json::object* Table::TableAt(absl::string_view key) const {
  const boost::json::value* value = Find(key);
  if (!value) return nullptr;
  if (!value->is_object()) source_.Fail(PathOf(key), WrongType(*value, "a table"));
  return value->if_object();
}

std::vector<const boost::json::object*> Table::TablesAt(absl::string_view key, absl::string_view toml) const {
  std::vector<const boost::json::object*> tables;
  const boost::json::value* value = Find(key);
  if (!value) return tables;
  const auto* list = value->if_array();
  if (!list) {
    source_.Fail(PathOf(key), absl::StrCat("is ", Describe(*value), " where a list of tables is wanted; write ", toml));
    return tables;
  }
  for (size_t i = 0; i < list->size(); ++i) {
    if (const auto* table = (*list)[i].if_object()) {
      tables.push_back(table);
    } else {
      source_.Fail(Join(PathOf(key), i),
                   absl::StrCat("is ", Describe((*list)[i]), " where a table is wanted; write ", toml));
      tables.push_back(nullptr);
    }
  }
  return tables;
}

std::vector<std::string> Table::StringsAt(absl::string_view key) const {
  std::vector<std::string> texts;
  const boost::json::value* value = Find(key);
  if (!value) return texts;
  const auto* list = value->if_array();
  if (!list) {
    source_.Fail(PathOf(key), WrongType(*value, "a list of strings"));
    return texts;
  }
  for (size_t i = 0; i < list->size(); ++i) {
    if (const auto* text = (*list)[i].if_string()) {
      texts.emplace_back(text->data(), text->size());
    } else {
      source_.Fail(Join(PathOf(key), i), WrongType((*list)[i], "a string"));
    }
  }
  return texts;
}

std::optional<int64_t> ReadInteger(Source& source, const boost::json::value& value, const std::string& path,
                                   int64_t min, int64_t max) {
  if (!value.is_int64() && !value.is_uint64()) {
    source.Fail(path, WrongType(value, "an integer"));
    return std::nullopt;
  }
  const bool huge = value.is_uint64() && value.get_uint64() > INT64_MAX;
  const int64_t number = huge ? INT64_MAX : value.to_number<int64_t>();
  if (!huge && number >= min && number <= max) return number;
  source.Fail(path, RangeFault(huge ? absl::StrCat(value.get_uint64()) : absl::StrCat(number), min, max));
  return std::nullopt;
}

std::string Describe(const boost::json::value& value) {
  switch (value.kind()) {
    case boost::json::kind::null:
      return "null";
    case boost::json::kind::bool_:
      return value.get_bool() ? "true" : "false";
    case boost::json::kind::int64:
      return absl::StrCat("the integer ", value.get_int64());
    case boost::json::kind::uint64:
      return absl::StrCat("the integer ", value.get_uint64());
    case boost::json::kind::double_:
      return absl::StrCat("the number ", value.get_double());
    case boost::json::kind::string:
      return absl::StrCat("the string ", Quote({value.get_string().data(), value.get_string().size()}));
    case boost::json::kind::array:
      return "a list";
    case boost::json::kind::object:
      return "a table";
  }
  return "something else";
}

namespace {

UplinkConfig ReadUplink(const Table& table) {
  table.AllowOnly({"kind", "device", "bridge", "bind"});
  UplinkConfig uplink;
  std::string kind;
  table.Read("kind", kind);
  if (!table.Has("kind")) {
    table.source().Fail(table.PathOf("kind"), "is missing; say what the uplink is, for example kind = \"tap\"");
  } else if (const auto parsed = ParseUplinkKind(kind); parsed.ok()) {
    uplink.kind = *parsed;
  } else {
    table.source().Fail(table.PathOf("kind"), parsed.status().message());
  }
  table.Read("device", uplink.device);
  table.Read("bridge", uplink.bridge);
  table.Read("bind", uplink.bind);
  return uplink;
}

}  // namespace

std::vector<UplinkConfig> ReadUplinks(const Table& table, absl::string_view toml) {
  std::vector<UplinkConfig> uplinks;
  for (const auto* uplink : table.TablesAt("uplink", toml)) {
    const std::string path = Join(table.PathOf("uplink"), uplinks.size());
    uplinks.push_back(uplink ? ReadUplink(Table(table.source(), *uplink, path)) : UplinkConfig{});
  }
  return uplinks;
}

PortConfig ReadPort(const Table& table) {
  table.AllowOnly(
      {"name", "socket", "mac", "queue_pairs", "mtu", "contract", "failback_delay_ms", "postcopy", "uplink"});
  PortConfig port;
  table.Read("name", port.name);
  table.Read("socket", port.socket);
  table.Read("mac", port.mac);
  table.Read("queue_pairs", port.queue_pairs, kQueuePairs);
  table.Read("mtu", port.mtu, kMtu);
  table.Read("contract", port.contract);
  table.Read("failback_delay_ms", port.failback_delay_ms, kFailbackDelayMs);
  table.Read("postcopy", port.postcopy);
  port.uplinks = ReadUplinks(table, "[[port.uplink]]");
  return port;
}

absl::string_view Nearest(absl::string_view key, absl::Span<const absl::string_view> known) {
  if (key.size() > 64) return "";
  absl::string_view best;
  size_t best_distance = std::min<size_t>(3, key.size() / 2 + 1);  // a distance of 3 is no longer a slip
  const std::string lower = absl::AsciiStrToLower(key);
  for (const absl::string_view candidate : known) {
    const bool shortened = lower.size() >= 3 && absl::StartsWith(candidate, lower);  // max_sleep for max_sleep_us
    const size_t distance = shortened ? 0 : EditDistance(lower, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace everport::config
