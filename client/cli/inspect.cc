// echelon inspect: what a checkpoint holds, from its header alone.

#include <array>
#include <cstdio>
#include <map>

#include "client/cli/answer.h"
#include "client/cli/commands.h"
#include "common/json.h"
#include "common/model/checkpoint.h"
#include "common/strings.h"
#include "common/tensor_format.h"

namespace echelon {

namespace {

// Roles that stand once, and roles that stand once a layer.
constexpr std::array kModelRoles = {TensorRole::kEmbedding, TensorRole::kLmHead,
                                    TensorRole::kFinalNorm};
constexpr std::array kLayerRoles = {TensorRole::kAttentionNorm,
                                    TensorRole::kQuery,
                                    TensorRole::kKey,
                                    TensorRole::kValue,
                                    TensorRole::kQueryBias,
                                    TensorRole::kKeyBias,
                                    TensorRole::kValueBias,
                                    TensorRole::kQueryNorm,
                                    TensorRole::kKeyNorm,
                                    TensorRole::kAttentionOut,
                                    TensorRole::kPostAttentionNorm,
                                    TensorRole::kMlpNorm,
                                    TensorRole::kGate,
                                    TensorRole::kUp,
                                    TensorRole::kDown,
                                    TensorRole::kPostMlpNorm};

std::vector<const TensorInfo*> TensorsOf(const Checkpoint& checkpoint) {
  std::vector<const TensorInfo*> tensors;
  const auto add = [&](TensorRole role, int layer) {
    const TensorInfo* tensor = checkpoint.Find(role, layer);
    if (tensor != nullptr) tensors.push_back(tensor);
  };
  for (const TensorRole role : kModelRoles) add(role, 0);
  for (int layer = 0; layer < checkpoint.config().n_layers(); ++layer) {
    for (const TensorRole role : kLayerRoles) add(role, layer);
  }
  return tensors;
}

Json ConfigToJson(const ModelConfig& config) {
  Json out = Json::MakeObject();
  out.Set("family", config.family);
  out.Set("name", config.name);
  out.Set("layers", config.n_layers());
  out.Set("d_model", config.d_model);
  out.Set("heads", config.n_heads);
  out.Set("kv_heads", config.n_kv_heads);
  out.Set("head_dim", config.head_dim);
  out.Set("d_ff", config.d_ff);
  out.Set("vocab_size", config.vocab_size);
  out.Set("context_max", config.context_max);
  out.Set("tied_embeddings", config.tied_embeddings);
  out.Set("qkv_bias", config.qkv_bias);
  out.Set("qk_norm", config.qk_norm);
  out.Set("schedule", ScheduleName(config.schedule));
  int ladder = 0, windowed = 0;
  for (const LayerConfig& layer : config.layers) {
    ladder += layer.ladder ? 1 : 0;
    windowed += layer.window > 0 ? 1 : 0;
  }
  out.Set("ladder_layers", ladder);
  out.Set("sliding_window_layers", windowed);
  return out;
}

}  // namespace

Status RunInspect(const InspectOptions& options) {
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(options.path));
  Json config = ConfigToJson(checkpoint->config());
  std::map<std::string, int64_t> bytes_by_format;
  Json tensors = Json::MakeArray();
  for (const TensorInfo* tensor : TensorsOf(*checkpoint)) {
    const std::string format(InfoOf(tensor->format).name);
    const int64_t bytes = tensor->rows * tensor->row_bytes;
    bytes_by_format[format] += bytes;
    Json item = Json::MakeObject();
    item.Set("name", tensor->name);
    item.Set("format", format);
    item.Set("rows", tensor->rows);
    item.Set("cols", tensor->cols);
    item.Set("bytes", bytes);
    tensors.Append(std::move(item));
  }
  Json formats = Json::MakeObject();
  for (const auto& [format, bytes] : bytes_by_format) formats.Set(format, bytes);

  if (options.json) {
    Json out = Json::MakeObject();
    out.Set("config", std::move(config));
    out.Set("bytes_by_format", std::move(formats));
    out.Set("file_bytes", checkpoint->file_bytes());
    out.Set("tensors", std::move(tensors));
    PrintText(out.Dump() + "\n");
    return Status();
  }
  for (const auto& [key, value] : config.as_object()) {
    PrintText(StrCat(key, ": ", value.is_string() ? value.as_string() : value.Dump(), "\n"));
  }
  PrintText("\n");
  for (const Json& tensor : tensors.as_array()) {
    char line[256];
    std::snprintf(line, sizeof line, "%-48s %-6s %8lld x %-8lld %s\n",
                  tensor.Find("name")->as_string().c_str(),
                  tensor.Find("format")->as_string().c_str(),
                  static_cast<long long>(tensor.Find("rows")->as_int()),
                  static_cast<long long>(tensor.Find("cols")->as_int()),
                  HumanBytes(tensor.Find("bytes")->as_double()).c_str());
    PrintText(line);
  }
  PrintText("\n");
  for (const auto& [format, bytes] : bytes_by_format) {
    PrintText(StrCat(format, ": ", HumanBytes(static_cast<double>(bytes)), "\n"));
  }
  PrintText(StrCat("files: ", HumanBytes(static_cast<double>(checkpoint->file_bytes())), "\n"));
  return Status();
}

}  // namespace echelon
