#pragma once

#include <boost/json/value.hpp>
#include <cstdint>
#include <string>

namespace everport::cli {

// Three significant digits and a decimal prefix: "0 pps", "950 pps", "6.04 Mpps", "24.6 Gbit/s". value >= 0.
std::string Scaled(double value, const std::string& unit);

// Reading the API's JSON for display: what is missing or null is empty (0), as an older daemon may not say it all.
// pointer: RFC 6901, "/path/kind".
std::string Text(const boost::json::value& value, const char* pointer);  // strings as they are, the rest as JSON
uint64_t Number(const boost::json::value& value, const char* pointer);

// "0 tap:ep-vm1" for a port's active path; empty when there is none.
std::string PathText(const boost::json::value& port);
// What a port waits for or what is amiss with it; empty if nothing.
std::string StateNote(const boost::json::value& port);
// That and why its path is the active one, if that is not the first choice; each cut to what a table's row has room
// for.
std::string NoteText(const boost::json::value& port);
// A node or a poller: empty for -1, which stands for unknown or none.
std::string IndexText(const boost::json::value& value, const char* pointer);

}  // namespace everport::cli
