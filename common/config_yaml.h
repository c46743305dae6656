#pragma once
// ReadConfigYaml: the part of YAML that a configuration needs, and nothing more: one document, a
// map of sections, each a map of scalars. Lists, aliases, tags, deeper maps, duplicate keys and
// control characters are errors, found while reading: hostile text costs no more than its own size.

#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace echelon {

// A configuration takes about 4 kB with all its comments; 256 KiB leave room for generated ones.
inline constexpr size_t kConfigBytesMax = 256 << 10;

struct ConfigEntry {
  std::string section;
  std::string key;    // "" for a section that stands alone ("model:" with nothing in it)
  std::string value;  // "" also where nothing stands after the colon
  int line = 0;       // from 1
};

// UTF-8 without control characters or line breaks: what keys and values may hold.
bool IsConfigText(std::string_view text);

// `source` names the text in errors: "service.yaml:12: ...".
Result<std::vector<ConfigEntry>> ReadConfigYaml(std::string_view yaml, std::string_view source);

}  // namespace echelon
