#pragma once

#include <atomic>
#include <boost/json/object.hpp>
#include <mutex>
#include <string>
#include <vector>

#include "backend/cli/client.h"
#include "migration/workflow.h"

namespace everport::cli {

// "62%, 12 MiB left, 4.2 s, dirty 3.1 MiB/s, downtime 300 ms, 91 MiB sent"; bar: with "[######....] " before it. What
// does not fit into width is left out, what remains and how long it has taken last.
std::string ProgressLine(const migration::Progress& progress, bool bar, size_t width);

// What is seen of a migration as it goes: a line for each stage and note; of the sending of memory one line that is
// redrawn on a terminal, else one every 2 s. Nothing with --json.
class MigrateOutput : public migration::Observer {
 public:
  explicit MigrateOutput(const Client& client) : client_(client), short_(client.io().out_tty && client.io().err_tty) {}
  void OnStage(const std::string& stage, Event event, const std::string& detail) override;
  void OnProgress(const migration::Progress& progress) override;
  // Any thread: the first signal has come.
  void OnCancel();
  // At the end: report's place, unless the domain has not been seen at the source.
  migration::Place PlaceIn(const migration::Report& report) const;

 private:
  void Line(const std::string& stage, const std::string& text);
  std::string Progress(const migration::Progress& progress, size_t width) const;

  const Client& client_;
  const bool short_;  // failures: the error's line at the end, which is seen as well, says it all
  std::atomic<bool> cancelling_{false};
  std::timed_mutex mutex_;    // standard output and all below
  double said_s_ = -1;        // Progress::elapsed_s at the last line
  bool sending_ = false;      // memory, as far as has been said
  bool switching_ = false;    // as far as has been said
  bool domain_seen_ = false;  // at the source
  bool drawn_ = false;        // the terminal's line is ours
};

// What is said by one that a second signal ends by force. migrating: the source's libvirt (its URI: from) goes
// on with the migration.
std::string ForcedEnd(const std::string& domain, const std::string& from, bool migrating,
                      const std::vector<migration::Leftover>& left);

// The end, in words and a table of the ports; dry: what would come.
void PrintReport(const Client& client, const std::string& domain, const migration::Report& report, bool dry);
boost::json::object ReportJson(const std::string& domain, const migration::Report& report, bool dry);

}  // namespace everport::cli
