#pragma once
// The hosts file of `echelon plan`: which machines there are, as YAML. A section a host, named as
// in a hostfile; `defaults` holds what every host takes that does not say otherwise, `links` the
// two links. `echelon plan --calibrate --model M` prints one for the machine it runs on. Example:
//
//   defaults: {slots: 2, cores: 16, memory_gb: 64}
//   node1:
//   node2: {count: 3, weights_gb_s: 12}     # three such hosts
//   links: {between_latency_us: 40, between_gb_s: 0.117}
//
// docs/parallelism.md lists the keys; they are the rows of two tables in hosts_file.cc.

#include <string>
#include <string_view>
#include <vector>

#include "common/planner/machine.h"
#include "common/result.h"

namespace echelon {

struct HostsKey {
  std::string name;  // "memory_gb"
  std::string help;
};
std::vector<HostsKey> HostsKeys();  // of a host, then of `links`

// `source` names the text in errors, which name the line and what is allowed.
Result<Cluster> ParseHosts(std::string_view yaml, std::string_view source);
Result<Cluster> LoadHosts(const std::string& path);
// A text that ParseHosts reads back to the same, within six digits.
std::string PrintHosts(const Cluster& cluster);

}  // namespace echelon
