#pragma once
// Machines and models by name, for plans of clusters that are not there: H100 hosts with constants
// fitted to published measurements (tests/unit/common/published_table_test.cc holds the figures and
// their source), and the shapes of the largest Llama models.

#include <string>
#include <vector>

#include "common/model_config.h"
#include "common/planner/machine.h"
#include "common/result.h"

namespace echelon {

// Hosts of eight H100 80 GB each. `nvlink`: inside a host; without it ranks talk through host
// memory. Between hosts one 400 Gbit/s port a GPU (datasheet rate, 80 % of it; latency assumed).
HostSpec H100Host();
Link NvlinkInside();
Link HostMemoryInside();
Link InfinibandBetween();

// "llama-3-70b", "llama-3.1-405b"; the error lists the names.
Result<ModelConfig> NamedModel(const std::string& name);
std::vector<std::string> NamedModels();

}  // namespace echelon
