#include "backend/cli/usage.h"

#include <CLI/CLI.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "backend/config/reader.h"

namespace everport::cli {
namespace {

// The innermost verb that was understood.
struct Reached {
  const CLI::App* app;
  std::string call;   // "everportctl port add"
  std::string where;  // "port add: ", or nothing
};
Reached Reach(const CLI::App& app) {
  Reached reached{&app, app.get_name(), ""};
  for (auto given = app.get_subcommands(); !given.empty(); given = reached.app->get_subcommands()) {
    reached.app = given.front();
    absl::StrAppend(&reached.call, " ", reached.app->get_name());
  }
  if (reached.app != &app) reached.where = reached.call.substr(app.get_name().size() + 1) + ": ";
  return reached;
}

std::vector<std::string> VerbsOf(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(verb->get_name());
  }
  return names;
}

std::vector<std::string> OptionsOf(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* level = &app; level; level = level->get_parent()) {
    for (const CLI::Option* option : level->get_options([](const CLI::Option*) { return true; })) {
      for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    }
  }
  return names;
}

// "; did you mean ports?", or nothing.
std::string Suggestion(const std::string& word, const std::vector<std::string>& known) {
  const std::vector<absl::string_view> views(known.begin(), known.end());
  const absl::string_view near = config::Nearest(word, views);
  return near.empty() ? "" : absl::StrCat("; did you mean ", near, "?");
}

std::string VerbsText(const CLI::App& app) {
  return "; the verbs are " + absl::StrJoin(VerbsOf(app), ", ");
}

std::string SurplusText(const Reached& reached, const std::string& word) {
  if (absl::StartsWith(word, "-")) {
    return absl::StrCat(word, ": no such option", Suggestion(word.substr(0, word.find('=')), OptionsOf(*reached.app)));
  }
  const std::vector<std::string> verbs = VerbsOf(*reached.app);
  if (verbs.empty()) return absl::StrCat(word, ": one argument too many");
  return absl::StrCat(word, ": no such verb", Suggestion(word, verbs), VerbsText(*reached.app));
}

// CLI11's own words for a value that is missing or is none, said as the rest is.
std::string ValueText(const CLI::ParseError& error) {
  std::string words = error.what();
  if (dynamic_cast<const CLI::ConversionError*>(&error)) {  // "Could not convert: --mtu = x"
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(absl::StripPrefix(words, "Could not convert: "), absl::MaxSplits(" = ", 1));
    return absl::StrCat(parts.first, ": \"", parts.second, "\" is not a number that it takes");
  }
  // "--api: At most 1 required but received 2"
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) &&
      absl::StrContains(absl::AsciiStrToLower(words), ": at most 1 required")) {
    return absl::StrCat(words.substr(0, words.find(':')), ": is given more than once; give it once");
  }
  // "--mtu: 1 required UINT missing"
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) && absl::EndsWith(words, " missing")) {
    return absl::StrCat(words.substr(0, words.find(':')), ": its value is missing");
  }
  return words;
}

}  // namespace

std::string UsageText(const CLI::App& app, const CLI::ParseError& error) {
  const Reached reached = Reach(app);
  const std::vector<std::string> surplus = app.remaining(true);
  const bool is_surplus = dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr && !surplus.empty();
  return absl::StrCat(reached.where, is_surplus ? SurplusText(reached, surplus.front()) : ValueText(error), "; see ",
                      reached.call, " --help");
}

std::string MissingVerbText(const CLI::App& app) {
  const Reached reached = Reach(app);
  return absl::StrCat(reached.where, "a verb is missing", VerbsText(*reached.app), "; see ", reached.call, " --help");
}

}  // namespace everport::cli
