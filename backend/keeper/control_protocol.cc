#include "backend/keeper/control_protocol.h"

#include <algorithm>
#include <boost/json.hpp>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace everport {
namespace {

namespace json = boost::json;

// Reads members of an object and remembers the first thing that is wrong.
class Reader {
 public:
  explicit Reader(const json::object& object) : object_(object) {}

  std::string String(const char* key) {
    const json::value* value = Find(key);
    if (!value) return {};
    if (const json::string* text = value->if_string()) return std::string(text->data(), text->size());
    Fail(absl::StrCat("\"", key, "\" is not a string"));
    return {};
  }
  std::string StringOr(const char* key, std::string otherwise) {
    return object_.contains(key) ? String(key) : otherwise;
  }
  template <typename T>
  T Number(const char* key) {
    const json::value* value = Find(key);
    if (!value) return {};
    boost::system::error_code error;
    const auto number = value->to_number<int64_t>(error);
    if (!error && number >= std::numeric_limits<T>::min() && number <= std::numeric_limits<T>::max())
      return static_cast<T>(number);
    Fail(absl::StrCat("\"", key, "\" is not a number in range"));
    return {};
  }
  bool BoolOr(const char* key, bool otherwise) { return object_.contains(key) ? Bool(key) : otherwise; }
  bool Bool(const char* key) {
    const json::value* value = Find(key);
    if (value && value->is_bool()) return value->get_bool();
    if (value) Fail(absl::StrCat("\"", key, "\" is not true or false"));
    return false;
  }
  const json::object& Object(const char* key) {
    static const json::object empty;
    const json::value* value = Find(key);
    if (value && value->is_object()) return value->get_object();
    if (value) Fail(absl::StrCat("\"", key, "\" is not an object"));
    return empty;
  }
  bool Has(const char* key) const { return object_.contains(key); }
  void Fail(const std::string& what) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(what);
  }
  const absl::Status& status() const { return status_; }

 private:
  const json::value* Find(const char* key) {
    const json::value* value = object_.if_contains(key);
    if (!value) Fail(absl::StrCat("\"", key, "\" is missing"));
    return value;
  }
  const json::object& object_;
  absl::Status status_;
};

absl::StatusOr<json::object> ParseObject(std::string_view text) {
  if (text.size() > kMaxControlMessage)
    return absl::InvalidArgumentError(absl::StrCat("longer than ", kMaxControlMessage, " bytes"));
  boost::system::error_code error;
  json::value value = json::parse(text, error);
  if (error) return absl::InvalidArgumentError(absl::StrCat("not JSON: ", error.message()));
  if (!value.is_object()) return absl::InvalidArgumentError("not a JSON object");
  return std::move(value.get_object());
}

json::object ToJson(const PortSpec& spec) {
  json::object object = {{"name", spec.name},
                         {"socket", spec.socket},
                         {"queue_pairs", spec.queue_pairs},
                         {"mtu", spec.mtu},
                         {"contract", spec.contract}};
  if (spec.postcopy) object["postcopy"] = true;
  return object;
}

json::object ToJson(const PortSession& session) {
  json::object object = {{"spec", ToJson(session.spec)},
                         {"state", std::string(SessionStateName(session.state))},
                         {"daemon_attached", session.daemon_attached},
                         {"reason", session.reason}};
  if (session.postcopy != Postcopy::kNone) object["postcopy"] = std::string(PostcopyName(session.postcopy));
  return object;
}

// In numbers: 256 ports' requests come at once.
json::object ProfileToJson(const FeatureContract& profile) {
  return {{"features", profile.features},
          {"protocol_features", profile.protocol_features},
          {"max_mtu", profile.max_mtu},
          {"max_queue_pairs", profile.max_queue_pairs},
          {"max_ring_size", profile.max_ring_size}};
}

// The name becomes part of a path.
bool IsPortName(const std::string& name) {
  const auto alnum = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); };
  return !name.empty() && name.size() <= 63 && alnum(name[0]) &&
         std::all_of(name.begin(), name.end(), [&](char c) { return alnum(c) || c == '_' || c == '.' || c == '-'; });
}

FeatureContract ProfileFromJson(const json::object& object, const std::string& name, Reader& outer) {
  Reader reader(object);
  FeatureContract profile;
  profile.name = name;
  profile.features = static_cast<uint64_t>(reader.Number<int64_t>("features"));
  profile.protocol_features = static_cast<uint64_t>(reader.Number<int64_t>("protocol_features"));
  profile.max_mtu = reader.Number<uint16_t>("max_mtu");
  profile.max_queue_pairs = reader.Number<uint16_t>("max_queue_pairs");
  profile.max_ring_size = reader.Number<uint16_t>("max_ring_size");
  for (const auto& fault : {FindContractFault(profile), FindProfileFault(profile)})
    if (fault) reader.Fail(absl::StrCat("\"", fault->field, "\" ", fault->text));
  if (!reader.status().ok()) outer.Fail(absl::StrCat("profile: ", std::string(reader.status().message())));
  return profile;
}

PortSpec SpecFromJson(const json::object& object, Reader& outer) {
  Reader reader(object);
  PortSpec spec;
  spec.name = reader.String("name");
  spec.socket = reader.String("socket");
  spec.queue_pairs = reader.Number<uint16_t>("queue_pairs");
  spec.mtu = reader.Number<uint16_t>("mtu");
  spec.contract = reader.String("contract");
  if (reader.Has("profile")) spec.profile = ProfileFromJson(reader.Object("profile"), spec.contract, reader);
  spec.postcopy = reader.BoolOr("postcopy", false);
  if (!IsPortName(spec.name)) reader.Fail("\"name\" is not a port's name");
  if (spec.socket.empty() || spec.socket[0] != '/' || spec.socket.size() > 107 ||
      spec.socket.find('\0') != std::string::npos)
    reader.Fail("\"socket\" is not an absolute path of at most 107 bytes");
  if (spec.queue_pairs < 1 || spec.queue_pairs > 16) reader.Fail("\"queue_pairs\" is not 1 to 16");
  if (spec.mtu < 68 || spec.mtu > 9216) reader.Fail("\"mtu\" is not 68 to 9216");
  if (!reader.status().ok()) outer.Fail(absl::StrCat("port: ", std::string(reader.status().message())));
  return spec;
}

SessionState StateFromJson(Reader& reader) {
  const std::string text = reader.String("state");
  for (SessionState state : {SessionState::kWaiting, SessionState::kConnected, SessionState::kRunning})
    if (text == SessionStateName(state)) return state;
  reader.Fail("\"state\" is not waiting, connected or running");
  return SessionState::kWaiting;
}

Postcopy PostcopyFromJson(Reader& reader) {
  if (!reader.Has("postcopy")) return Postcopy::kNone;
  const std::string text = reader.String("postcopy");
  for (Postcopy postcopy : {Postcopy::kAdvised, Postcopy::kListening})
    if (text == PostcopyName(postcopy)) return postcopy;
  reader.Fail("\"postcopy\" is not advised or listening");
  return Postcopy::kNone;
}

PortSession SessionFromJson(const json::object& object, Reader& outer) {
  Reader reader(object);
  PortSession session;
  session.spec = SpecFromJson(reader.Object("spec"), reader);
  session.state = StateFromJson(reader);
  session.daemon_attached = reader.Bool("daemon_attached");
  session.reason = reader.String("reason");
  session.postcopy = PostcopyFromJson(reader);
  if (!reader.status().ok()) outer.Fail(absl::StrCat("ports: ", std::string(reader.status().message())));
  return session;
}

struct RequestEncoder {
  json::object operator()(const HelloRequest& r) const {
    return {{"op", "hello"}, {"version", r.version}, {"daemon", r.daemon}};
  }
  json::object operator()(const ListRequest&) const { return {{"op", "list"}}; }
  json::object operator()(const AddRequest& r) const {
    json::object port = ToJson(r.port);
    if (r.port.profile) port["profile"] = ProfileToJson(*r.port.profile);
    return {{"op", "add"}, {"port", std::move(port)}};
  }
  json::object operator()(const RemoveRequest& r) const { return {{"op", "remove"}, {"name", r.name}}; }
};

struct MessageEncoder {
  json::object operator()(const ControlReply& r) const {
    json::object object{{"ok", r.ok}};
    if (!r.ok) object["error"] = r.error;
    if (r.ok) object["version"] = kControlVersion;
    if (!r.socket.empty()) object["socket"] = r.socket;
    json::array ports;
    for (const PortSession& p : r.ports) ports.push_back(ToJson(p));
    if (!ports.empty()) object["ports"] = std::move(ports);
    return object;
  }
  json::object operator()(const SessionEvent& e) const {
    json::object object = {{"event", "session"},
                           {"name", e.name},
                           {"state", std::string(SessionStateName(e.state))},
                           {"reason", e.reason}};
    if (e.postcopy != Postcopy::kNone) object["postcopy"] = std::string(PostcopyName(e.postcopy));
    return object;
  }
  json::object operator()(const AnnounceEvent& e) const {
    return {{"event", "announce"}, {"name", e.name}, {"mac", e.mac}};
  }
};

ControlReply ReplyFromJson(const json::object& object, Reader& reader) {
  ControlReply reply;
  reply.ok = reader.Bool("ok");
  if (!reply.ok) reply.error = reader.String("error");
  reply.socket = reader.StringOr("socket", "");
  const json::value* ports = object.if_contains("ports");
  if (ports && !ports->is_array()) reader.Fail("\"ports\" is not a list");
  if (!ports || !ports->is_array()) return reply;
  for (const json::value& port : ports->get_array()) {
    if (!port.is_object()) reader.Fail("\"ports\" holds something else than objects");
    if (port.is_object()) reply.ports.push_back(SessionFromJson(port.get_object(), reader));
  }
  return reply;
}

}  // namespace

PortSpec SpecOf(const PortConfig& port, const ContractSet& contracts) {
  PortSpec spec{port.name, port.socket, port.queue_pairs, port.mtu, port.contract};
  const auto contract = contracts.Find(port.contract);
  if (contract.ok() && !IsBuiltInContract(port.contract)) spec.profile = *contract;
  spec.postcopy = port.postcopy;
  return spec;
}

std::string_view SessionStateName(SessionState state) {
  switch (state) {
    case SessionState::kWaiting:
      return "waiting";
    case SessionState::kConnected:
      return "connected";
    case SessionState::kRunning:
      return "running";
  }
  return "waiting";
}

std::string_view PostcopyName(Postcopy postcopy) {
  switch (postcopy) {
    case Postcopy::kNone:
      return "none";
    case Postcopy::kAdvised:
      return "advised";
    case Postcopy::kListening:
      return "listening";
  }
  return "none";
}

std::string EncodeRequest(const ControlRequest& request) {
  return json::serialize(std::visit(RequestEncoder{}, request));
}

absl::StatusOr<ControlRequest> DecodeRequest(std::string_view text) {
  const absl::StatusOr<json::object> object = ParseObject(text);
  if (!object.ok()) return object.status();
  Reader reader(*object);
  const std::string op = reader.String("op");
  ControlRequest request;
  if (op == "hello") {
    request = HelloRequest{reader.Number<int>("version"), reader.String("daemon")};
  } else if (op == "list") {
    request = ListRequest{};
  } else if (op == "add") {
    request = AddRequest{SpecFromJson(reader.Object("port"), reader)};
  } else if (op == "remove") {
    request = RemoveRequest{reader.String("name")};
  } else {
    reader.Fail("\"op\" is none of hello, list, add, remove");
  }
  if (!reader.status().ok()) return reader.status();
  return request;
}

std::string EncodeMessage(const ControlMessage& message) {
  return json::serialize(std::visit(MessageEncoder{}, message));
}

absl::StatusOr<ControlMessage> DecodeMessage(std::string_view text) {
  const absl::StatusOr<json::object> object = ParseObject(text);
  if (!object.ok()) return object.status();
  Reader reader(*object);
  const std::string event = reader.StringOr("event", "");
  ControlMessage message;
  if (event == "session") {
    message =
        SessionEvent{reader.String("name"), StateFromJson(reader), reader.String("reason"), PostcopyFromJson(reader)};
  } else if (event == "announce") {
    message = AnnounceEvent{reader.String("name"), reader.String("mac")};
  } else if (reader.Has("event")) {
    reader.Fail("\"event\" is neither session nor announce");
  } else {
    message = ReplyFromJson(*object, reader);
  }
  if (!reader.status().ok()) return reader.status();
  return message;
}

}  // namespace everport
