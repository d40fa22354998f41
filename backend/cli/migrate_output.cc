#include "backend/cli/migrate_output.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/value_from.hpp>
#include <chrono>
#include <ostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "backend/cli/table.h"

namespace everport::cli {
namespace {

using boost::json::array;
using boost::json::object;
using migration::Place;
using migration::Report;

constexpr double kBetweenLines_s = 2;
constexpr std::chrono::milliseconds kPatience{500};
constexpr size_t kBar = 10;
constexpr size_t kStage = 12;

std::string StageText(const std::string& stage) {
  return absl::StrFormat("%-*s", static_cast<int>(kStage), stage);
}

std::string MiB(uint64_t bytes) {
  return absl::StrFormat("%.*f MiB", bytes < 10u << 20 ? 1 : 0, static_cast<double>(bytes) / (1 << 20));
}

const char* PlaceName(Place place) {
  switch (place) {
    case Place::kSource:
      return "source";
    case Place::kDestination:
      return "destination";
    case Place::kUnknown:
      return "unknown";
  }
  return "unknown";
}

const char* StatusName(const Report& report, bool dry) {
  if (report.status.ok()) return dry ? "checked" : "completed";
  return absl::IsCancelled(report.status) ? "cancelled" : "failed";
}

array FindingsJson(const migration::Compatibility& check) {
  array list;
  for (const migration::Finding& finding : check.findings) {
    list.push_back(object{{"field", finding.field},
                          {"here", finding.here},
                          {"there", finding.there},
                          {"breaks", finding.breaks},
                          {"why", finding.why},
                          {"mend", finding.mend}});
  }
  return list;
}

array PortsJson(const Report& report) {
  array list;
  for (size_t i = 0; i < report.ports.size(); ++i) {
    const migration::PortOutcome& port = report.ports[i];
    object json{{"source", port.source},
                {"destination", port.destination},
                {"source_socket", port.source_socket},
                {"destination_socket", port.destination_socket},
                {"created", port.created},
                {"removed", port.removed},
                {"state", port.state},
                {"frames", port.frames}};
    if (i < report.checks.size()) {
      json["compatible"] = report.checks[i].compatible;
      json["findings"] = FindingsJson(report.checks[i]);
    }
    list.push_back(std::move(json));
  }
  return list;
}

void PrintFindings(std::ostream& out, const Report& report) {
  for (size_t i = 0; i < report.checks.size() && i < report.ports.size(); ++i) {
    const migration::Compatibility& check = report.checks[i];
    out << "port " << report.ports[i].source << ": contract " << (check.compatible ? "fits" : "does not fit") << "\n";
    for (const migration::Finding& finding : check.findings) {
      out << "  " << (finding.breaks ? "BREAKS " : "differs ") << finding.field << ": here " << finding.here
          << ", there " << finding.there << ": " << finding.why << (finding.mend.empty() ? "" : "; " + finding.mend)
          << "\n";
    }
  }
}

std::string Seconds(double seconds) {
  return absl::StrFormat("%.1f s", seconds);
}

// What is longer would go on in the next line, and could not be redrawn.
size_t TerminalWidth() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1 : 79;
}

}  // namespace

std::string ProgressLine(const migration::Progress& progress, bool bar, size_t width) {
  const uint64_t whole = std::max<uint64_t>({progress.total, progress.remaining, 1});
  const uint64_t sent = whole - progress.remaining;
  std::string text;
  if (bar) {
    const size_t done = kBar * sent / whole;
    text = absl::StrCat("[", std::string(done, '#'), std::string(kBar - done, '.'), "] ");
  }
  absl::StrAppend(&text, 100 * sent / whole, "%, ", MiB(progress.remaining), " left, ", Seconds(progress.elapsed_s));
  std::vector<std::string> more = {absl::StrCat("dirty ", MiB(progress.dirty_bytes_per_s), "/s")};
  if (progress.expected_downtime_ms > 0) {
    more.push_back(absl::StrFormat("downtime %.0f ms", progress.expected_downtime_ms));
  }
  more.push_back(absl::StrCat(MiB(progress.transferred), " sent"));
  for (const std::string& field : more) {
    if (text.size() + 2 + field.size() <= width) absl::StrAppend(&text, ", ", field);
  }
  return text;
}

// libvirt has no figures before the sending, nor after it, while the guest changes over.
std::string MigrateOutput::Progress(const migration::Progress& progress, size_t width) const {
  if (cancelling_) return absl::StrCat("cancelling, ", Seconds(progress.elapsed_s));
  if (progress.total > 0) return ProgressLine(progress, client_.io().out_tty, width);
  return absl::StrCat(sending_ ? "switching over, " : "being set up, ", Seconds(progress.elapsed_s));
}

void MigrateOutput::Line(const std::string& stage, const std::string& text) {
  if (client_.json()) return;
  if (drawn_) client_.out() << "\r\x1b[K";
  drawn_ = false;
  client_.out() << StageText(stage) << text << "\n" << std::flush;
}

void MigrateOutput::OnStage(const std::string& stage, Event event, const std::string& detail) {
  const std::lock_guard lock(mutex_);
  switch (event) {
    case Event::kStarted:
      said_s_ = -1;
      return;
    case Event::kDone:
      domain_seen_ = true;  // by the first stage, or an earlier one
      return Line(stage, detail.empty() ? "done" : detail);
    case Event::kFailed:
      return Line(stage, short_ ? "FAILED" : "FAILED: " + detail);
    case Event::kRolledBack:
      return Line(stage, "rolled back: " + detail);
    case Event::kRollbackFailed:
      return Line(stage, short_ ? "ROLLBACK FAILED" : "ROLLBACK FAILED: " + detail);
    case Event::kNote:
      return Line(stage, detail);
  }
}

void MigrateOutput::OnProgress(const migration::Progress& progress) {
  if (client_.json()) return;
  const std::lock_guard lock(mutex_);
  const bool sends = progress.total > 0;
  const bool news = said_s_ < 0 || (!sending_ && sends) || (sending_ && !sends && !switching_);
  switching_ = sending_ && !sends;
  sending_ = sending_ || sends;
  if (client_.io().out_tty) {
    const size_t width = TerminalWidth();
    const std::string line = StageText("migrate") + Progress(progress, width - std::min(width, kStage));
    client_.out() << "\r" << line.substr(0, width) << "\x1b[K" << std::flush;
    drawn_ = true;
  } else if (news || progress.elapsed_s >= said_s_ + kBetweenLines_s) {
    said_s_ = progress.elapsed_s;
    Line("migrate", Progress(progress, std::string::npos));
  }
}

Place MigrateOutput::PlaceIn(const Report& report) const {
  // A precondition is mostly what a domain that is there lacks; if it was not read for another cause, it may be
  // elsewhere.
  const bool seen = domain_seen_ || report.status.ok() || absl::IsFailedPrecondition(report.status);
  return seen ? report.place : Place::kUnknown;
}

void MigrateOutput::OnCancel() {
  if (client_.json()) return;
  cancelling_ = true;
  // Not for ever: where nobody reads our output any more, the second signal must still be heard.
  const std::unique_lock lock(mutex_, kPatience);
  if (lock && std::exchange(drawn_, false)) client_.out() << "\n" << std::flush;  // what was drawn stays
  client_.err() << "everportctl: cancelling; a second signal leaves all as it is\n" << std::flush;
}

std::string ForcedEnd(const std::string& domain, const std::string& from, bool migrating,
                      const std::vector<migration::Leftover>& left) {
  std::string text = absl::StrCat("everportctl: ", domain, ": ended by a second signal");
  if (migrating) {
    const std::string virsh = absl::StrCat("`virsh -c ", from, " ");
    absl::StrAppend(&text, "; the migration may go on by itself, and complete: end it with ", virsh, "domjobabort ",
                    domain, "`, then see with ", virsh, "domstate ", domain,
                    "` whether the guest runs at the source; take away what follows only if it does");
  }
  for (const migration::Leftover& leftover : left) {
    absl::StrAppend(&text, "; left behind: ", leftover.what, ", take it away with `", leftover.command, "`");
  }
  return absl::StrCat(text, left.empty() ? "; nothing was left behind" : "", "\n");
}

void PrintReport(const Client& client, const std::string& domain, const Report& report, bool dry) {
  std::ostream& out = client.out();
  if (dry) PrintFindings(out, report);
  if (report.place != Place::kDestination) return;  // the error says it all
  out << "\n" << domain << " runs at the destination";
  if (report.account.total_ms > 0) {
    out << absl::StrFormat(": away for %.0f ms; %.1f s in all, %s sent", report.account.downtime_ms,
                           report.account.total_ms / 1000, MiB(report.account.transferred));
  }
  out << "\n";
  Table table({{"PORT"}, {"DESTINATION"}, {"SOCKET"}, {"MADE"}, {"STATE"}, {"FRAMES", true}, {"SOURCE"}});
  for (const migration::PortOutcome& port : report.ports) {
    table.Add({port.source, port.destination, port.destination_socket, port.created ? "now" : "before", port.state,
               absl::StrCat(port.frames), port.removed ? "removed" : "still there"});
  }
  out << table.Text();
}

object ReportJson(const std::string& domain, const Report& report, bool dry) {
  array left;
  for (const migration::Leftover& leftover : report.left) {
    left.push_back(object{{"what", leftover.what}, {"command", leftover.command}});
  }
  object json{{"domain", domain},
              {"status", StatusName(report, dry)},
              {"guest", PlaceName(report.place)},
              {"error", report.status.ok() ? boost::json::value(nullptr)
                                           : boost::json::value(std::string(report.status.message()))},
              {"downtime_ms", report.account.downtime_ms},
              {"total_ms", report.account.total_ms},
              {"transferred_bytes", report.account.transferred},
              {"ports", PortsJson(report)},
              {"notes", boost::json::value_from(report.notes)},
              {"left", std::move(left)}};
  if (dry) {
    array stages;
    for (const auto& stage : migration::Workflow::Stages()) {
      stages.push_back(object{{"name", stage.name}, {"what", stage.what}, {"run", !stage.changes}});
    }
    json["stages"] = std::move(stages);
  }
  return json;
}

}  // namespace everport::cli
