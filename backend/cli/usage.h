#pragma once

#include <string>

namespace CLI {
class App;
class ParseError;
}  // namespace CLI

namespace everport::cli {

// What is wrong with a command line, in one line: the word, the cause, and the mend (the nearest verb or option, or
// all there are). error: of app.parse.
std::string UsageText(const CLI::App& app, const CLI::ParseError& error);
// The same for a command line that ends before its verb does ("everportctl port").
std::string MissingVerbText(const CLI::App& app);

}  // namespace everport::cli
