#pragma once
// ConfigTable: the one list of settings. A row ties a key to its member of ServiceConfig, with
// unit, allowed values and help; reading, printing and checking are loops over the rows. Defaults
// stand on the members themselves (config.h). Immutable; safe to use from any thread.

#include <cstdint>
#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "common/config.h"

namespace echelon {

// The member that a row is about, within a given configuration.
using ConfigInt = std::function<int64_t&(ServiceConfig&)>;
using ConfigText = std::function<std::string&(ServiceConfig&)>;

struct ConfigRow {
  std::string section;
  std::string name;
  std::string unit;  // "bytes": sizes may be given and are printed as 4MiB
  std::string help;
  std::variant<ConfigInt, ConfigText> member;
  int64_t min = 0, max = 0;          // of a ConfigInt
  std::vector<std::string> choices;  // of a ConfigText; empty: free text
  // What is wrong with a text, or "" when nothing is.
  std::function<std::string(const std::string&)> problem;

  std::string Key() const { return section + "." + name; }
};

const std::vector<ConfigRow>& ConfigTable();

}  // namespace echelon
