// everportctl contract show, contract check.
#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <ostream>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backend/cli/commands.h"
#include "backend/cli/format.h"
#include "backend/cli/table.h"
#include "migration/contract_document.h"
#include "migration/strict_json.h"

namespace everport::cli {
namespace {

using boost::json::value;

std::vector<std::string> List(const value& from, const char* pointer) {
  std::vector<std::string> texts;
  boost::json::error_code error;
  const value* const list = from.find_pointer(pointer, error);
  if (!list || !list->is_array()) return texts;
  for (const value& item : list->get_array()) texts.push_back(Text(item, ""));
  return texts;
}

// Whether the port's guest may arrive by post-copy.
bool Arrives(const value& port) {
  return Text(port, "/postcopy") == "true";
}

std::string Joined(const value& from, const char* pointer) {
  return absl::StrJoin(List(from, pointer), ", ");
}

absl::StatusOr<boost::json::array> Contracts(const Client& client) {
  const auto contracts = client.Get("/v1/contract");
  if (!contracts.ok()) return contracts.status();
  if (!contracts->is_array()) return absl::InternalError("everportd: /v1/contract is not a list");
  return contracts->get_array();
}

const value* Find(const boost::json::array& contracts, const std::string& name) {
  for (const value& contract : contracts) {
    if (Text(contract, "/name") == name) return &contract;
  }
  return nullptr;
}

void PrintList(std::ostream& out, const boost::json::array& contracts) {
  Table table({{"NAME"},
               {"MTU", true},
               {"QUEUE-PAIRS", true},
               {"RING-SIZE", true},
               {"RING-LAYOUTS"},
               {"ANNOUNCE"},
               {"FEATURES", true}});
  for (const value& contract : contracts) {
    table.Add({Text(contract, "/name"), Text(contract, "/max_mtu"), Text(contract, "/max_queue_pairs"),
               Text(contract, "/max_ring_size"), Joined(contract, "/ring_layouts"), Joined(contract, "/announce"),
               absl::StrCat(List(contract, "/features").size())});
  }
  out << table.Text();
}

// What the contract offers and, of a port, what its guest has of it. needs: null for none. postcopy: the port's own
// key, by which it offers more.
void PrintOffer(std::ostream& out, const value& contract, const value& needs, bool postcopy) {
  const bool of_port = needs.is_object();
  const std::vector<std::string> taken = List(needs, "/features");
  const std::set<std::string> negotiated(taken.begin(), taken.end());
  Table table(of_port ? std::vector<Column>{{"FIELD"}, {"OFFERED"}, {"GUEST"}}
                      : std::vector<Column>{{"FIELD"}, {"OFFERED"}});
  const auto row = [&](const std::string& field, const std::string& offered, const std::string& guest) {
    of_port ? table.Add({field, offered, guest}) : table.Add({field, offered});
  };
  row("max_mtu", Text(contract, "/max_mtu"), Text(needs, "/mtu"));
  row("max_queue_pairs", Text(contract, "/max_queue_pairs"), Text(needs, "/queue_pairs"));
  row("max_ring_size", Text(contract, "/max_ring_size"), Text(needs, "/ring_size"));
  row("ring_layouts", Joined(contract, "/ring_layouts"), Text(needs, "/ring_layout"));
  row("announce", Joined(contract, "/announce"), "");
  for (const std::string& name : List(contract, "/features"))
    row(name, "offered", negotiated.count(name) ? "negotiated" : "");
  for (const std::string& name : List(contract, "/protocol_features")) row("protocol " + name, "offered", "");
  if (postcopy) row("protocol PAGEFAULT", "offered (postcopy = true)", "");
  out << table.Text();
}

absl::Status ShowPortsContract(const Client& client, const boost::json::array& contracts, const std::string& name) {
  const auto port = GetPort(client, name);
  if (absl::IsNotFound(port.status())) {
    return absl::NotFoundError(absl::StrCat("contract show ", name,
                                            ": there is neither a contract nor a port of that name; `everportctl "
                                            "contract show` and `everportctl ports` list them"));
  }
  if (!port.ok()) return port.status();
  const std::string contract_name = Text(*port, "/contract");
  const value* const contract = Find(contracts, contract_name);
  if (!contract)
    return absl::InternalError(absl::StrCat("everportd: /v1/contract lacks ", contract_name, ", the contract of port ",
                                            name, "; is it of another version?"));
  if (client.json()) {
    client.PrintJson(*contract);
    return absl::OkStatus();
  }
  const value* const needs = port->as_object().if_contains("needs");
  const bool started = needs && !Text(*needs, "/features").empty();
  client.out() << "port " << name << ", contract " << contract_name
               << (started ? "" : "; its guest's driver has not started, and may take all that is offered") << "\n\n";
  PrintOffer(client.out(), *contract, needs ? *needs : value(boost::json::object{}), Arrives(*port));
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadDocument(const std::string& file) {
  std::ifstream opened(file, std::ios::binary);
  if (!opened) {
    return absl::NotFoundError(absl::StrCat("--against ", file,
                                            ": cannot be read; name a contract document, or another daemon's api.sock "
                                            "or URL"));
  }
  // One byte more than a document may have, so that a longer one is told from it.
  std::string text(JsonLimits{}.bytes + 1, '\0');
  opened.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(opened.gcount()));
  return text;
}

bool IsApi(const std::string& against) {
  std::error_code error;
  return absl::StrContains(against, "://") || absl::StartsWith(against, "unix:") ||
         std::filesystem::is_socket(against, error);
}

// Asked of the port's own daemon: would its guest lose anything under the document?
absl::StatusOr<value> CheckAgainstFile(const Client& client, const std::string& port, const std::string& file) {
  const auto text = ReadDocument(file);
  if (!text.ok()) return text.status();
  // Here, so that its faults are said of the file; the daemon looks at it again.
  const auto contract = ParseContract(*text, absl::StrCat("--against ", file));
  if (!contract.ok()) return absl::FailedPreconditionError(contract.status().message());
  return client.Do("POST", "/v1/contract/check",
                   boost::json::serialize(boost::json::object{{"port", port}, {"against", ContractToJson(*contract)}}));
}

// Asked of the other daemon: would the guest lose anything there?
absl::StatusOr<value> CheckAgainstDaemon(const Client& client, const std::string& port, const std::string& against,
                                         const Client& other) {
  const auto view = GetPort(client, port);
  if (!view.ok()) return view.status();
  auto document = client.Get("/v1/contract?name=" + Text(*view, "/contract"));
  if (!document.ok()) return document.status();
  // What the port offers: its guest's way there may depend on it.
  auto* const protocol = document->is_object() ? document->as_object().if_contains("protocol_features") : nullptr;
  if (Arrives(*view) && protocol && protocol->is_array()) protocol->as_array().emplace_back("PAGEFAULT");
  const value* const needs = view->as_object().if_contains("needs");
  if (!needs) return absl::InternalError("everportd: tells no needs of its ports; upgrade it");
  auto verdict = other.Do("POST", "/v1/contract/check", ContractCheckBody(*document, *needs));
  const std::string said(verdict.status().message());
  if (verdict.ok() || absl::StrContains(said, against)) return verdict;
  return absl::Status(verdict.status().code(), absl::StrCat(against, ": ", said));
}

void PrintVerdict(std::ostream& out, const value& verdict, const std::string& port, const std::string& against) {
  Table table({{"FIELD"}, {"HERE"}, {"THERE"}, {"VERDICT"}});
  int breaks = 0, notes = 0;
  const value* const findings = verdict.as_object().if_contains("findings");
  for (const value& finding : findings && findings->is_array() ? findings->get_array() : boost::json::array()) {
    const bool broken = Text(finding, "/breaks") == "true";
    const std::string mend = Text(finding, "/mend");
    (broken ? breaks : notes)++;
    table.Add({Text(finding, "/field"), Text(finding, "/here"), Text(finding, "/there"),
               absl::StrCat(broken ? "breaks: " : "differs: ", Text(finding, "/why"), mend.empty() ? "" : "; ", mend)});
  }
  if (breaks + notes > 0) out << table.Text() << "\n";
  out << "port " << port << ", contract " << Text(verdict, "/contract") << ", against " << against << ": ";
  if (breaks > 0) {
    out << "not compatible, " << breaks << (breaks == 1 ? " thing breaks" : " things break") << "\n";
  } else {
    out << "compatible" << (notes > 0 ? "" : ", nothing differs") << "\n";
  }
}

}  // namespace

absl::Status ShowContracts(const Client& client, const std::string& name) {
  const auto contracts = Contracts(client);
  if (!contracts.ok()) return contracts.status();
  const value* const named = Find(*contracts, name);
  if (!name.empty() && !named) return ShowPortsContract(client, *contracts, name);
  if (client.json()) {
    client.PrintJson(named ? *named : value(*contracts));
  } else if (named) {
    client.out() << "contract " << name << "\n\n";
    PrintOffer(client.out(), *named, nullptr, false);
  } else {
    PrintList(client.out(), *contracts);
  }
  return absl::OkStatus();
}

absl::Status CheckContract(const Client& client, const std::string& port, const std::string& against,
                           const OpenApi& open) {
  absl::StatusOr<value> verdict;
  if (IsApi(against)) {
    auto http = open(against, HttpClient::kTimeout);
    if (!http.ok()) return http.status();
    verdict = CheckAgainstDaemon(client, port, against, Client(client.io(), client.json(), *std::move(http)));
  } else {
    verdict = CheckAgainstFile(client, port, against);
  }
  if (!verdict.ok()) return verdict.status();
  if (!verdict->is_object()) return absl::InternalError("everportd: /v1/contract/check gives no object");
  client.json() ? client.PrintJson(*verdict) : PrintVerdict(client.out(), *verdict, port, against);
  if (Text(*verdict, "/compatible") == "true") return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("port ", port, ": its guest would lose something at ", against,
                                                    "; mend what breaks before it moves"));
}

}  // namespace everport::cli
