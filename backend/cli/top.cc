#include "backend/cli/top.h"

#include <boost/json/array.hpp>
#include <chrono>
#include <cmath>
#include <map>
#include <optional>
#include <ostream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "backend/cli/format.h"
#include "backend/cli/table.h"
#include "backend/cli/terminal.h"

namespace everport::cli {
namespace {

using boost::json::value;
using Clock = std::chrono::steady_clock;

struct Rate {
  const char* name;
  const char* counter;
  double factor;  // bytes to bits
};
constexpr Rate kRates[] = {{"rx_pps", "/rx_packets", 1},
                           {"rx_bps", "/rx_bytes", 8},
                           {"tx_pps", "/tx_packets", 1},
                           {"tx_bps", "/tx_bytes", 8},
                           {"drops_ps", "/drops", 1}};

struct Sample {
  value ports;
  Clock::time_point at;
};

absl::StatusOr<Sample> TakeSample(const Client& client) {
  auto ports = client.Get("/v1/ports");
  if (!ports.ok()) return ports.status();
  if (!ports->is_array()) return absl::InternalError("everportd: /v1/ports is not a list");
  return Sample{*std::move(ports), Clock::now()};
}

double Value(const value& port, const std::string& name) {
  const auto* found = port.is_object() ? port.get_object().if_contains(name) : nullptr;
  return found && found->is_double() ? found->get_double() : 0;
}

value RatesBetween(const Sample& before, const Sample& after) {
  return Rates(before.ports, after.ports, std::chrono::duration<double>(after.at - before.at).count());
}

// As much of text as a screen of this many rows shows.
std::string FirstLines(const std::string& text, int rows) {
  size_t end = 0;
  for (int i = 0; i < rows && end != std::string::npos; ++i) end = text.find('\n', end + (i > 0));
  return end == std::string::npos ? text : text.substr(0, end);
}

absl::Status LiveTop(const Client& client, const TopOptions& options, Sample before) {
  absl::Status status;
  {
    Screen screen;
    client.out() << "\x1b[H\x1b[2Jeverportctl top: measuring" << std::flush;
    for (unsigned shown = 0; options.count == 0 || shown < options.count; ++shown) {
      if (!screen.Wait(options.interval_s)) return absl::OkStatus();
      auto after = TakeSample(client);
      if (!after.ok()) {
        status = after.status();
        break;
      }
      const std::string text = absl::StrCat(RatesText(RatesBetween(before, *after)), "\nq quits\n");
      client.out() << "\x1b[H\x1b[2J" << FirstLines(text, screen.rows()) << std::flush;
      before = *std::move(after);
    }
  }
  return status;
}

absl::Status PlainTop(const Client& client, const TopOptions& options, Sample before) {
  const unsigned count = options.count == 0 ? 1 : options.count;
  for (unsigned shown = 0; shown < count; ++shown) {
    std::this_thread::sleep_until(
        before.at + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options.interval_s)));
    auto after = TakeSample(client);
    if (!after.ok()) return after.status();
    const value rates = RatesBetween(before, *after);
    if (client.json()) {
      client.PrintJson(rates);
    } else {
      client.out() << (shown > 0 ? "\n" : "") << RatesText(rates) << std::flush;
    }
    before = *std::move(after);
  }
  return absl::OkStatus();
}

}  // namespace

value Rates(const value& before, const value& after, double seconds) {
  std::map<std::string, const value*> earlier;
  for (const value& port : before.as_array()) earlier[Text(port, "/name")] = &port;
  boost::json::array list;
  for (const value& port : after.as_array()) {
    boost::json::object row = {
        {"name", Text(port, "/name")}, {"state", Text(port, "/state")}, {"path", PathText(port)}};
    const auto was = earlier.find(Text(port, "/name"));
    for (const Rate& rate : kRates) {
      const uint64_t now = Number(port, rate.counter);
      const uint64_t then = was == earlier.end() ? now : Number(*was->second, rate.counter);
      row[rate.name] = now < then || seconds <= 0 ? 0.0 : static_cast<double>(now - then) * rate.factor / seconds;
    }
    list.push_back(std::move(row));
  }
  return list;
}

std::string RatesText(const value& rates) {
  Table table({{"NAME"}, {"STATE"}, {"PATH"}, {"RX", true}, {"RX", true}, {"TX", true}, {"TX", true}, {"DROPS", true}});
  std::map<std::string, double> sum;
  for (const value& port : rates.as_array()) {
    for (const Rate& rate : kRates) sum[rate.name] += Value(port, rate.name);
    table.Add({Text(port, "/name"), Text(port, "/state"), Text(port, "/path"), Scaled(Value(port, "rx_pps"), "pps"),
               Scaled(Value(port, "rx_bps"), "bit/s"), Scaled(Value(port, "tx_pps"), "pps"),
               Scaled(Value(port, "tx_bps"), "bit/s"), Scaled(Value(port, "drops_ps"), "/s")});
  }
  return absl::StrCat(rates.as_array().size(), rates.as_array().size() == 1 ? " port" : " ports", ", rx ",
                      Scaled(sum["rx_pps"], "pps"), " ", Scaled(sum["rx_bps"], "bit/s"), ", tx ",
                      Scaled(sum["tx_pps"], "pps"), " ", Scaled(sum["tx_bps"], "bit/s"), ", drops ",
                      Scaled(sum["drops_ps"], "/s"), "\n\n", table.Text());
}

absl::Status RunTop(const Client& client, const TopOptions& options) {
  if (!(options.interval_s >= 0.01 && options.interval_s <= 3600)) {
    return absl::InvalidArgumentError("top: --interval is not from 0.01 to 3600 seconds; leave it out for 1");
  }
  auto first = TakeSample(client);
  if (!first.ok()) return first.status();
  return client.io().out_tty && !client.json() ? LiveTop(client, options, *std::move(first))
                                               : PlainTop(client, options, *std::move(first));
}

}  // namespace everport::cli
