#include "common/config.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <optional>

#include "common/config_table.h"
#include "common/config_yaml.h"
#include "common/strings.h"

namespace echelon {

namespace {

constexpr size_t kShownBytesMax = 80;  // of a bad value, in an error

struct SizeUnit {
  std::string_view suffix;
  int64_t bytes;
};
// Largest first, so that printing finds the shortest form; decimal units are read, never printed.
constexpr SizeUnit kSizeUnits[] = {{"TiB", int64_t{1} << 40},
                                   {"GiB", int64_t{1} << 30},
                                   {"MiB", int64_t{1} << 20},
                                   {"KiB", int64_t{1} << 10},
                                   {"TB", 1'000'000'000'000},
                                   {"GB", 1'000'000'000},
                                   {"MB", 1'000'000},
                                   {"kB", 1'000},
                                   {"B", 1}};

// Where a value came from, for errors: "service.yaml:12: " or "command line: ".
struct Origin {
  std::string text;
  std::string Of(const ConfigRow& row) const { return StrCat(text, row.Key(), ": "); }
};

std::string Shown(std::string_view value) {
  const bool cut = value.size() > kShownBytesMax;
  return StrCat("\"", value.substr(0, kShownBytesMax), cut ? "...\"" : "\"");
}

// Bytes per unit of the suffix, 1 for none, 0 for an unknown one.
int64_t UnitBytes(std::string_view suffix) {
  while (!suffix.empty() && suffix.front() == ' ') suffix.remove_prefix(1);
  if (suffix.empty()) return 1;
  for (const SizeUnit& unit : kSizeUnits) {
    if (unit.suffix == suffix) return unit.bytes;
  }
  return 0;
}

// The number, or nothing where `text` is none (or none that fits); `size` allows a unit after it.
std::optional<int64_t> ParseInt(std::string_view text, bool size) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc()) return std::nullopt;
  const std::string_view suffix(stop, static_cast<size_t>(end - stop));
  if (!size && !suffix.empty()) return std::nullopt;
  const int64_t unit = UnitBytes(suffix);
  int64_t bytes = 0;
  if (unit == 0 || __builtin_mul_overflow(value, unit, &bytes)) return std::nullopt;
  return bytes;
}

std::string PrintInt(int64_t value, bool size) {
  if (size && value != 0) {
    for (const SizeUnit& unit : kSizeUnits) {
      if (unit.bytes >= 1024 && (unit.bytes & (unit.bytes - 1)) == 0 && value % unit.bytes == 0) {
        return StrCat(value / unit.bytes, unit.suffix);
      }
    }
  }
  return StrCat(value);
}

Status SetInt(const ConfigRow& row, int64_t& member, std::string_view value, const Origin& origin) {
  const bool size = row.unit == "bytes";
  const std::optional<int64_t> parsed = ParseInt(value, size);
  if (!parsed) {
    return InvalidArgument(StrCat(origin.Of(row), "expected ",
                                  size ? "a size (4096, 64KiB, 4MiB, 2GiB, 2GB)" : "an integer",
                                  ", got ", Shown(value)),
                           row.Key());
  }
  if (*parsed < row.min || *parsed > row.max) {
    return InvalidArgument(StrCat(origin.Of(row), Shown(value), " is out of range; allowed: ",
                                  PrintInt(row.min, size), " to ", PrintInt(row.max, size),
                                  row.unit.empty() || size ? "" : " ", size ? "" : row.unit),
                           row.Key());
  }
  member = *parsed;
  return {};
}

Status SetText(const ConfigRow& row, std::string& member, std::string_view value,
               const Origin& origin) {
  const std::string text(value);
  const std::vector<std::string>& choices = row.choices;
  if (!choices.empty() && std::find(choices.begin(), choices.end(), text) == choices.end()) {
    return InvalidArgument(
        StrCat(origin.Of(row), Shown(value), " is not one of: ", Join(choices, ", ")), row.Key());
  }
  const std::string problem = row.problem(text);
  if (!problem.empty()) {
    return InvalidArgument(StrCat(origin.Of(row), problem, ", got ", Shown(value)), row.Key());
  }
  member = text;
  return {};
}

Status SetValue(const ConfigRow& row, ServiceConfig& config, std::string_view value,
                const Origin& origin) {
  if (const auto* integer = std::get_if<ConfigInt>(&row.member)) {
    return SetInt(row, (*integer)(config), value, origin);
  }
  return SetText(row, std::get<ConfigText>(row.member)(config), value, origin);
}

std::string PrintValue(const ConfigRow& row, ServiceConfig& config) {
  if (const auto* integer = std::get_if<ConfigInt>(&row.member)) {
    return PrintInt((*integer)(config), row.unit == "bytes");
  }
  return std::get<ConfigText>(row.member)(config);
}

// YAML's double-quoted form. Values that were read hold no control characters.
std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out.push_back('\\');
    out.push_back(c);
  }
  return out + "\"";
}

Error UnknownName(const Origin& origin, const char* kind, const std::string& name,
                  const std::vector<std::string>& known) {
  const std::string nearest = NearestName(name, known);
  return InvalidArgument(StrCat(origin.text, "unknown ", kind, " ", Shown(name),
                                nearest.empty() ? "" : StrCat("; did you mean \"", nearest, "\"?")),
                         name.substr(0, kShownBytesMax));
}

Result<const ConfigRow*> FindRow(const std::string& key, const Origin& origin) {
  std::vector<std::string> known;
  for (const ConfigRow& row : ConfigTable()) {
    if (row.Key() == key) return &row;
    known.push_back(row.Key());
  }
  return UnknownName(origin, "key", key, known);
}

Status CheckSection(const std::string& section, const Origin& origin) {
  std::vector<std::string> known;
  for (const ConfigRow& row : ConfigTable()) {
    if (row.section == section) return {};
    if (known.empty() || known.back() != row.section) known.push_back(row.section);
  }
  return UnknownName(origin, "section", section, known);
}

// What no row can check alone.
Status CheckTogether(const ServiceConfig& config, std::string_view source) {
  const GroupSettings& group = config.group;
  const auto fail = [&](const char* key, const std::string& message) {
    return InvalidArgument(StrCat(source, ": ", key, ": ", message), key);
  };
  if (group.heartbeat_timeout_ms < 2 * group.heartbeat_interval_ms) {
    return fail("group.heartbeat_timeout_ms",
                StrCat(group.heartbeat_timeout_ms, " ms leave no room for two heartbeats of ",
                       group.heartbeat_interval_ms, " ms; raise it or lower the interval"));
  }
  if (group.lease_ms < 2 * group.heartbeat_interval_ms) {
    return fail("group.lease_ms",
                StrCat(group.lease_ms, " ms leave no room for two heartbeats of ",
                       group.heartbeat_interval_ms, " ms; raise it or lower the interval"));
  }
  const SchedulerSettings& scheduler = config.scheduler;
  if (scheduler.speculation_ngram_min_tokens > scheduler.speculation_ngram_max_tokens) {
    return fail("scheduler.speculation_ngram_min_tokens",
                StrCat(scheduler.speculation_ngram_min_tokens,
                       " is more than scheduler.speculation_ngram_max_tokens, ",
                       scheduler.speculation_ngram_max_tokens, "; lower it"));
  }
  const std::string& per_stage = config.layout.layers_per_stage;
  const int64_t stages = static_cast<int64_t>(Split(per_stage, ',').size());
  if (!per_stage.empty() && stages != config.layout.pp) {
    return fail("layout.layers_per_stage", StrCat("names ", stages, " stages, but layout.pp is ",
                                                  config.layout.pp, "; give one count a stage"));
  }
  const auto backends = static_cast<int64_t>(Split(config.worker.backend, ',').size());
  if (backends > 1 && backends != config.layout.pp) {
    return fail("worker.backend", StrCat("names ", backends, " stages, but layout.pp is ",
                                         config.layout.pp, "; give one backend, or one a stage"));
  }
  const std::string& shares = config.layout.shard_shares;
  if (const auto ranks = static_cast<int64_t>(Split(shares, ',').size());
      !shares.empty() && ranks != config.layout.tp) {
    return fail("layout.shard_shares", StrCat("names ", ranks, " ranks, but layout.tp is ",
                                              config.layout.tp, "; give one share a rank"));
  }
  if (group.launcher == "hostfile" && group.hosts.empty()) {
    return fail("group.hosts", "the hostfile launcher needs hosts: a file, or \"host1:2,host2:2\"");
  }
  return {};
}

Status ApplyEntries(const std::vector<ConfigEntry>& entries, std::string_view source,
                    ServiceConfig& config) {
  for (const ConfigEntry& entry : entries) {
    const Origin origin{StrCat(source, ":", entry.line, ": ")};
    RETURN_IF_ERROR(CheckSection(entry.section, origin));
    if (entry.key.empty() && entry.value.empty()) continue;  // a section with nothing in it
    ASSIGN_OR_RETURN(const ConfigRow* row, FindRow(StrCat(entry.section, ".", entry.key), origin));
    RETURN_IF_ERROR(SetValue(*row, config, entry.value, origin));
  }
  return {};
}

Status ApplyOverrides(const ConfigOverrides& overrides, ServiceConfig& config) {
  const Origin origin{"command line: "};
  for (const auto& [key, value] : overrides) {
    ASSIGN_OR_RETURN(const ConfigRow* row, FindRow(key, origin));
    if (!IsConfigText(value)) {
      return InvalidArgument(StrCat(origin.Of(*row), "not printable UTF-8 text"), key);
    }
    RETURN_IF_ERROR(SetValue(*row, config, value, origin));
  }
  return {};
}

}  // namespace

std::vector<ConfigKey> ConfigKeys() {
  ServiceConfig defaults;
  std::vector<ConfigKey> keys;
  for (const ConfigRow& row : ConfigTable()) {
    std::string help = row.help;
    if (!row.choices.empty()) help += StrCat(" [", Join(row.choices, " | "), "]");
    keys.push_back({row.Key(), row.unit, PrintValue(row, defaults), std::move(help)});
  }
  return keys;
}

Result<ServiceConfig> ParseConfig(std::string_view yaml, std::string_view source,
                                  const ConfigOverrides& overrides) {
  ASSIGN_OR_RETURN(const std::vector<ConfigEntry> entries, ReadConfigYaml(yaml, source));
  ServiceConfig config;
  RETURN_IF_ERROR(ApplyEntries(entries, source, config));
  RETURN_IF_ERROR(ApplyOverrides(overrides, config));
  RETURN_IF_ERROR(CheckTogether(config, source));
  if (config.model.name.empty()) {
    const std::filesystem::path path(config.model.path);
    config.model.name = (path.has_filename() ? path : path.parent_path()).filename().string();
  }
  return config;
}

Result<ServiceConfig> LoadConfig(const std::string& path, const ConfigOverrides& overrides) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    return InvalidArgument(StrCat(path, ": is a folder, not a configuration file"));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return NotFound(StrCat(path, ": cannot open this configuration file"));
  std::string text(kConfigBytesMax + 1, '\0');  // one more than allowed: too large shows
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return NotFound(StrCat(path, ": cannot read this configuration file"));
  text.resize(static_cast<size_t>(file.gcount()));
  return ParseConfig(text, path, overrides);
}

std::string PrintConfig(const ServiceConfig& config) {
  ServiceConfig copy = config;
  std::string out;
  std::string_view section;
  for (const ConfigRow& row : ConfigTable()) {
    if (row.section != section) {
      section = row.section;
      out += StrCat(section, ":\n");
    }
    const bool text = std::holds_alternative<ConfigText>(row.member);
    const std::string value = PrintValue(row, copy);
    out += StrCat("  ", row.name, ": ", text ? Quoted(value) : value, "\n");
  }
  return out;
}

}  // namespace echelon
