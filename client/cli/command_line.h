#pragma once
// The command line of `echelon`, parsed. The one place that knows CLI11.

#include <string>
#include <variant>
#include <vector>

#include "client/cli/options.h"
#include "common/result.h"

namespace echelon {

// A text that was asked for with --help or --version: print it on stdout, exit with 0.
struct HelpText {
  std::string text;
};

// `arguments` without the program's name. A wrong command line is a UsageError (errors.h).
Result<std::variant<Command, HelpText>> ParseCommandLine(const std::vector<std::string>& arguments);

}  // namespace echelon
