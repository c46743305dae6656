#include "common/planner/hosts_file.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "common/config_yaml.h"
#include "common/strings.h"

namespace echelon {

namespace {

// Hosts, and slots of all of them together: 64 times the largest layout's 1,024 GPUs that
// `echelon simulate` draws; ranks and their sums stay far below what an int holds.
constexpr int kHostsMax = 65536, kSlotsMax = 65536;

// One key: a figure of T with its unit, or a curve.
template <typename T>
struct NumberKey {
  const char* name;
  double T::*field;
  double unit;  // of the key, in the field's
  double least, most;
  const char* help;
};

constexpr double kMost = 1e9;
constexpr NumberKey<ProcessorRates> kRateKeys[] = {
    {"one_row_gb_s", &ProcessorRates::one_row_bytes_s, 1e9, 1e-3, kMost,
     "weights a core (or GPU) reads per second for one row"},
    {"weights_gb_s", &ProcessorRates::bytes_s, 1e9, 1e-3, kMost, "the same for several rows"},
    {"gmac_s", &ProcessorRates::macs_s, 1e9, 1e-3, kMost, "multiply-adds of large products"},
    {"kv_gb_s", &ProcessorRates::kv_bytes_s, 1e9, 1e-3, kMost, "keys and values read by decode"},
    {"attention_gmac_s", &ProcessorRates::attention_macs_s, 1e9, 1e-3, kMost,
     "multiply-adds of prefill's attention"},
    {"block_us", &ProcessorRates::block_s, 1e-6, 0, kMost, "fixed time of a sub-block"},
    {"parallel_saves", &ProcessorRates::parallel_saves, 1, 0, 1,
     "share of block_us that attention and MLP on one norm save"},
    {"row_element_ns", &ProcessorRates::row_element_s, 1e-9, 0, kMost,
     "norms and activations of a sub-block, per row and d_model"},
    {"step_us", &ProcessorRates::step_s, 1e-6, 0, kMost, "fixed time of a step"},
};
struct CurveKey {
  const char* name;
  MatMulCurve ProcessorRates::*field;
  const char* help;
};
constexpr CurveKey kCurveKeys[] = {
    {"matmul_ps", &ProcessorRates::layers,
     "measured instead of gb_s and gmac_s: \"rows:picoseconds ...\" of a core per weight"},
    {"head_ps", &ProcessorRates::head, "the same for the LM head"},
};
struct CountKey {
  const char* name;
  int HostSpec::*field;
  const char* help;
};
constexpr CountKey kCountKeys[] = {
    {"slots", &HostSpec::slots, "ranks the host takes"},
    {"cores", &HostSpec::cores, "cores (or GPUs), shared out among its ranks"},
    {"threads_per_rank_max", &HostSpec::cores_per_rank_max, "1 for GPUs; 0 = no limit"},
};
constexpr NumberKey<Link> kLinkKeys[] = {
    {"latency_us", &Link::latency_s, 1e-6, 0, kMost, "of a message"},
    {"step_us", &Link::step_s, 1e-6, 0, kMost, "of each step round a ring"},
    {"gb_s", &Link::bytes_s, 1e9, 1e-6, kMost, "of one rank, one way"},
    {"hidden", &Link::hidden, 1, 0, 1, "share of min(compute, communication) that overlaps"},
};
constexpr char kOnePrefix[] = "one_thread_";

struct Place {
  std::string_view source;
  const ConfigEntry& entry;
  Error Refuse(const std::string& why) const {
    return InvalidArgument(StrCat(source, ":", entry.line, ": ", entry.section, ".", entry.key,
                                  " = \"", entry.value, "\": ", why),
                           entry.section + "." + entry.key);
  }
};

Result<double> ParseNumber(const std::string& text, const Place& place, double least, double most) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const bool whole = !text.empty() && *end == '\0' && std::isfinite(value);
  if (!whole || value < least || value > most) {
    return place.Refuse(StrCat("must be a number from ", least, " to ", most));
  }
  return value;
}

Result<MatMulCurve> ParseCurve(const Place& place) {
  std::vector<MatMulCurve::Point> points;
  std::istringstream words(place.entry.value);
  for (std::string word; words >> word;) {
    const size_t colon = word.find(':');
    if (colon == std::string::npos) return place.Refuse("must be \"rows:picoseconds ...\"");
    ASSIGN_OR_RETURN(const double rows, ParseNumber(word.substr(0, colon), place, 1, 1e6));
    ASSIGN_OR_RETURN(const double ps, ParseNumber(word.substr(colon + 1), place, 1e-9, 1e12));
    if (!points.empty() && rows <= points.back().rows) {
      return place.Refuse("rows must ascend");
    }
    points.push_back({rows, ps * 1e-12});
  }
  if (points.empty()) return place.Refuse("must be \"rows:picoseconds ...\"");
  return MatMulCurve(std::move(points));
}

// True where `key` is one of the rates.
Result<bool> SetRate(ProcessorRates& rates, std::string_view key, const Place& place) {
  for (const auto& row : kRateKeys) {
    if (key != row.name) continue;
    ASSIGN_OR_RETURN(const double value,
                     ParseNumber(place.entry.value, place, row.least, row.most));
    rates.*row.field = value * row.unit;
    return true;
  }
  for (const CurveKey& row : kCurveKeys) {
    if (key != row.name) continue;
    ASSIGN_OR_RETURN(rates.*row.field, ParseCurve(place));
    return true;
  }
  return false;
}

Error UnknownKey(const Place& place, const std::vector<std::string>& known) {
  const std::string nearest = NearestName(place.entry.key, known);
  return place.Refuse(nearest.empty() ? StrCat("no such key; there are ", Join(known, ", "))
                                      : StrCat("no such key; did you mean ", nearest, "?"));
}

Status SetHost(HostSpec& host, int& count, const Place& place) {
  const std::string& key = place.entry.key;
  const auto integer = [&](int least) -> Result<int> {
    ASSIGN_OR_RETURN(const double value, ParseNumber(place.entry.value, place, least, kHostsMax));
    if (value != std::floor(value)) return place.Refuse("must be a whole number");
    return static_cast<int>(value);
  };
  if (key == "count") {
    ASSIGN_OR_RETURN(count, integer(1));
    return {};
  }
  if (key == "memory_gb") {
    ASSIGN_OR_RETURN(const double gb, ParseNumber(place.entry.value, place, 1e-3, 1e9));
    host.memory_bytes = static_cast<uint64_t>(gb * 1e9);
    return {};
  }
  for (const CountKey& row : kCountKeys) {
    if (key != row.name) continue;
    ASSIGN_OR_RETURN(host.*row.field, integer(key == "threads_per_rank_max" ? 0 : 1));
    return {};
  }
  if (key.rfind(kOnePrefix, 0) == 0) {
    ASSIGN_OR_RETURN(
        const bool rate,
        SetRate(host.one, std::string_view(key).substr(sizeof(kOnePrefix) - 1), place));
    if (rate) return {};
  } else {
    ASSIGN_OR_RETURN(const bool one, SetRate(host.one, key, place));
    ASSIGN_OR_RETURN(const bool all, SetRate(host.all, key, place));
    if (one && all) return {};
  }
  std::vector<std::string> known;
  for (const HostsKey& row : HostsKeys()) known.push_back(row.name);
  return UnknownKey(place, known);
}

Status SetLink(Cluster& cluster, const Place& place) {
  std::vector<std::string> known;
  for (const char* side : {"inside_", "between_"}) {
    Link& link = side[0] == 'i' ? cluster.inside : cluster.between;
    for (const auto& row : kLinkKeys) {
      known.push_back(StrCat(side, row.name));
      if (place.entry.key != known.back()) continue;
      ASSIGN_OR_RETURN(const double value,
                       ParseNumber(place.entry.value, place, row.least, row.most));
      link.*row.field = value * row.unit;
      return {};
    }
    known.push_back(StrCat(side, "kind"));
    if (place.entry.key == known.back()) {
      if (place.entry.value != "exchange" && place.entry.value != "ring") {
        return place.Refuse("must be exchange or ring");
      }
      link.kind = place.entry.value == "ring" ? AllReduceKind::kRing : AllReduceKind::kExchange;
      return {};
    }
    known.push_back(StrCat(side, "shared"));
    if (place.entry.key == known.back()) {
      if (place.entry.value != "true" && place.entry.value != "false") {
        return place.Refuse("must be true or false");
      }
      link.shared = place.entry.value == "true";
      return {};
    }
  }
  return UnknownKey(place, known);
}

std::string Number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

void PrintRates(const ProcessorRates& rates, const char* prefix, std::string& out) {
  for (const auto& row : kRateKeys) {
    out += StrCat("  ", prefix, row.name, ": ", Number(rates.*row.field / row.unit), "\n");
  }
  for (const CurveKey& row : kCurveKeys) {
    const MatMulCurve& curve = rates.*row.field;
    if (curve.empty()) continue;
    std::vector<std::string> words;
    for (const auto& point : curve.points()) {
      words.push_back(StrCat(Number(point.rows), ":", Number(point.seconds * 1e12)));
    }
    out += StrCat("  ", prefix, row.name, ": \"", Join(words, " "), "\"\n");
  }
}

}  // namespace

std::vector<HostsKey> HostsKeys() {
  std::vector<HostsKey> keys = {{"count", "so many hosts like this"},
                                {"memory_gb", "10^9 bytes, of all its ranks together"}};
  for (const CountKey& row : kCountKeys) keys.push_back({row.name, row.help});
  for (const auto& row : kRateKeys) keys.push_back({row.name, row.help});
  for (const CurveKey& row : kCurveKeys) keys.push_back({row.name, row.help});
  return keys;
}

Result<Cluster> ParseHosts(std::string_view yaml, std::string_view source) {
  ASSIGN_OR_RETURN(const std::vector<ConfigEntry> entries, ReadConfigYaml(yaml, source));
  Cluster cluster;
  HostSpec defaults;
  int default_count = 1;
  for (const ConfigEntry& entry : entries) {
    if (entry.section != "defaults" || entry.key.empty()) continue;
    RETURN_IF_ERROR(SetHost(defaults, default_count, {source, entry}));
  }
  std::vector<int> counts, lines;
  for (const ConfigEntry& entry : entries) {
    if (entry.section == "defaults") continue;
    const Place place{source, entry};
    if (entry.section == "links") {
      if (!entry.key.empty()) RETURN_IF_ERROR(SetLink(cluster, place));
      continue;
    }
    if (cluster.hosts.empty() || cluster.hosts.back().name != entry.section) {
      cluster.hosts.push_back(defaults);
      cluster.hosts.back().name = entry.section;
      counts.push_back(default_count);
      lines.push_back(entry.line);
    }
    if (!entry.key.empty()) RETURN_IF_ERROR(SetHost(cluster.hosts.back(), counts.back(), place));
  }
  if (cluster.hosts.empty()) {
    return InvalidArgument(StrCat(source, ": names no host; write a section for each, for example ",
                                  "\"node1: {slots: 2, cores: 16, memory_gb: 64}\""));
  }
  std::vector<HostSpec> hosts;
  int64_t slots = 0;
  for (size_t h = 0; h < cluster.hosts.size(); ++h) {
    const HostSpec& host = cluster.hosts[h];
    slots += int64_t{counts[h]} * host.slots;  // at least one each: hosts are no more than slots
    if (slots > kSlotsMax) {
      return InvalidArgument(
          StrCat(source, ":", lines[h], ": ", host.name, ": ", counts[h], " hosts of ", host.slots,
                 " slots make ", slots, " slots together; at most ", kSlotsMax, " are planned for"),
          host.name);
    }
    for (int i = 0; i < counts[h]; ++i) {
      hosts.push_back(cluster.hosts[h]);
      if (counts[h] > 1) hosts.back().name += StrCat(".", i);
    }
  }
  cluster.hosts = std::move(hosts);
  return cluster;
}

Result<Cluster> LoadHosts(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return NotFound(StrCat("hosts file ", path, ": cannot be read; see --calibrate"));
  std::string text(kConfigBytesMax + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  return ParseHosts(text, path);
}

std::string PrintHosts(const Cluster& cluster) {
  std::string out;
  for (const HostSpec& host : cluster.hosts) {
    out +=
        StrCat("\"", host.name,
               "\":\n  memory_gb: ", Number(static_cast<double>(host.memory_bytes) * 1e-9), "\n");
    for (const CountKey& row : kCountKeys) {
      out += StrCat("  ", row.name, ": ", host.*row.field, "\n");
    }
    PrintRates(host.all, "", out);
    PrintRates(host.one, kOnePrefix, out);
  }
  out += "links:\n";
  for (const char* side : {"inside_", "between_"}) {
    const Link& link = side[0] == 'i' ? cluster.inside : cluster.between;
    out += StrCat("  ", side, "kind: ", link.kind == AllReduceKind::kRing ? "ring" : "exchange",
                  "\n  ", side, "shared: ", link.shared, "\n");
    for (const auto& row : kLinkKeys) {
      out += StrCat("  ", side, row.name, ": ", Number(link.*row.field / row.unit), "\n");
    }
  }
  return out;
}

}  // namespace echelon
