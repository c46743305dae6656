#include "common/planner/presets.h"

#include <array>
#include <cmath>

#include "common/strings.h"

namespace echelon {

namespace {

struct ModelShape {
  const char* name;
  int layers, d_model, heads, kv_heads, head_dim, d_ff, vocab, context;
};
constexpr std::array kShapes = {
    ModelShape{"llama-3-70b", 80, 8192, 64, 8, 128, 28672, 128256, 8192},
    ModelShape{"llama-3.1-70b", 80, 8192, 64, 8, 128, 28672, 128256, 131072},
    ModelShape{"llama-3.1-405b", 126, 16384, 128, 8, 128, 53248, 128256, 131072},
};

}  // namespace

HostSpec H100Host() {
  HostSpec host;
  host.name = "h100";
  host.slots = host.cores = 8;
  host.cores_per_rank_max = 1;
  host.memory_bytes = 8 * 80'000'000'000ull;
  // Memory is read at the datasheet's 3.35 TB/s by one row; the rest is the least-squares fit of
  // the published table's rows with tp = 2 and 4.
  ProcessorRates& r = host.all;
  r.one_row_bytes_s = 3.35e12;
  r.bytes_s = 2.746e12;
  r.macs_s = 112.7e12;
  r.kv_bytes_s = 824e9;
  r.attention_macs_s = 112.7e12;
  r.block_s = 23.56e-6;
  r.parallel_saves = 0.0915;
  r.row_element_s = 0.0;
  r.step_s = 0.0;
  host.one = host.all;
  return host;
}

Link NvlinkInside() { return {AllReduceKind::kRing, 10.52e-6, 0.940e-6, 222.9e9, false, 0.763}; }
Link HostMemoryInside() { return {AllReduceKind::kRing, 24.15e-6, 1.343e-6, 342.4e9, true, 0.763}; }
Link InfinibandBetween() { return {AllReduceKind::kRing, 20e-6, 5e-6, 40e9, false, 0.763}; }

Result<ModelConfig> NamedModel(const std::string& name) {
  for (const ModelShape& shape : kShapes) {
    if (name != shape.name) continue;
    ModelConfig model;
    model.family = "llama";
    model.name = shape.name;
    model.d_model = shape.d_model;
    model.n_heads = shape.heads;
    model.n_kv_heads = shape.kv_heads;
    model.head_dim = shape.head_dim;
    model.d_ff = shape.d_ff;
    model.vocab_size = shape.vocab;
    model.context_max = shape.context;
    model.attention_scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
    model.layers.resize(shape.layers);
    for (LayerConfig& layer : model.layers) layer.rope_theta = 500000.0;
    return model;
  }
  return InvalidArgument(
      StrCat("no model is called \"", name, "\"; there are ", Join(NamedModels(), ", ")), "model");
}

std::vector<std::string> NamedModels() {
  std::vector<std::string> names;
  for (const ModelShape& shape : kShapes) names.emplace_back(shape.name);
  return names;
}

}  // namespace echelon
