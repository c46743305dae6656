#include <array>
#include <filesystem>
#include <map>
#include <optional>

#include "common/model/file_checkpoint.h"
#include "common/model/fingerprint.h"
#include "common/model/model_families.h"
#include "common/model/open_checkpoint.h"
#include "common/model/safetensors.h"
#include "common/strings.h"

namespace echelon {

namespace {

// The largest checkpoints have below 200 parts; each keeps a descriptor open.
constexpr size_t kShardsMax = 512;
// 91,000 entries (DeepSeek-V3) make 9 MiB; parsed, 250 bytes each, 30 MiB.
constexpr uint64_t kIndexBytesMax = 16 << 20;
constexpr uint64_t kIndexValuesMax = 1 << 17;

using WeightMap = std::map<std::string, size_t>;  // tensor -> index of its file's name

struct Shards {
  std::vector<std::string> names;  // inside the folder
  std::optional<WeightMap> where;  // none: one file holds all
};

// Reads a sharded checkpoint's index; a part must be a plain name in the same folder.
Result<Shards> ReadIndex(const std::string& path) {
  ASSIGN_OR_RETURN(std::string text, ReadTextFile(path, kIndexBytesMax));
  ASSIGN_OR_RETURN(
      Json json,
      Json::Parse(text, path,
                  {.bytes_max = kIndexBytesMax, .depth_max = 8, .values_max = kIndexValuesMax}));
  text = {};
  const auto fail = [&](std::string_view what) {
    return Corrupt(StrCat(path, ": weight_map ", what), "weight_map");
  };
  if (!json.is_object()) return fail("is missing");
  Shards shards;
  shards.where.emplace();
  std::map<std::string, size_t> indices;
  for (auto& [key, map] : json.as_object()) {
    if (key != "weight_map") continue;
    if (!map.is_object()) return fail("is no object");
    for (auto& [tensor, file] : map.as_object()) {
      const bool plain = file.is_string() && file.as_string().size() <= 255 &&
                         file.as_string().ends_with(".safetensors") &&
                         file.as_string().find_first_of("/\\\n\r") == std::string::npos;
      if (!plain || !IsValidUtf8(file.as_string())) {
        return fail(StrCat("entry ", shards.where->size(),
                           " does not name a .safetensors file of the same folder"));
      }
      const auto [entry, added] = indices.emplace(file.as_string(), shards.names.size());
      if (added) shards.names.push_back(entry->first);
      if (shards.names.size() > kShardsMax) break;  // refused below
      shards.where->emplace(std::move(tensor), entry->second);
    }
  }
  if (shards.names.empty() || shards.names.size() > kShardsMax) {
    return fail(StrCat("names ", shards.names.size(), " files; allowed are 1 to ", kShardsMax));
  }
  return shards;
}

Result<Shards> FindShards(const std::string& folder, const std::string& file) {
  if (!file.empty()) return Shards{{file}, {}};
  const std::string index = StrCat(folder, "/model.safetensors.index.json");
  std::error_code ignored;
  if (std::filesystem::exists(index, ignored)) return ReadIndex(index);
  return Shards{{"model.safetensors"}, {}};
}

// All tensors of all parts. With an index, a tensor counts where the index puts it, and all that
// the index lists must be found.
Result<std::vector<SafetensorsTensor>> ReadTensors(const std::string& folder, Shards shards,
                                                   CheckpointParts& parts,
                                                   Fingerprint& fingerprint) {
  std::vector<SafetensorsTensor> tensors;
  for (size_t part = 0; part < shards.names.size(); ++part) {
    ASSIGN_OR_RETURN(SafetensorsFile shard,
                     SafetensorsFile::Open(StrCat(folder, "/", shards.names[part])));
    fingerprint.Add(shard.header);
    fingerprint.Add(shard.file.size());
    for (SafetensorsTensor& tensor : shard.tensors) {
      if (shards.where) {
        const auto entry = shards.where->find(tensor.info.name);
        if (entry == shards.where->end() || entry->second != part) continue;
        shards.where->erase(entry);
      }
      tensor.info.file = static_cast<int>(part);
      tensors.push_back(std::move(tensor));
    }
    parts.files.push_back(std::move(shard.file));
  }
  if (shards.where && !shards.where->empty()) {
    const std::string& name = shards.names[shards.where->begin()->second];
    return Corrupt(StrCat(folder, "/", name, ": ", shards.where->size(),
                          " tensors that the index promises are missing"),
                   "weight_map");
  }
  return tensors;
}

// Text models stand alone or inside one that also sees pictures; transformers 5 moved the prefix.
struct Prefixes {
  const char* body;
  const char* head;
};
constexpr std::array<Prefixes, 3> kPrefixes = {
    {{"model.", ""}, {"language_model.model.", "language_model."}, {"model.language_model.", ""}}};

// Tensors that take no part in answering a text: rotary tables that older files store, what sees
// pictures, and the copy of a tied LM head.
bool IsIgnored(const std::string& name, const ModelConfig& config, const std::string& head) {
  if (name.ends_with(".rotary_emb.inv_freq")) return true;
  for (const char* prefix : {"vision_tower.", "multi_modal_projector.", "model.vision_tower.",
                             "model.multi_modal_projector."}) {
    if (name.starts_with(prefix)) return true;
  }
  return config.tied_embeddings && name == head;
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> OpenSafetensorsCheckpoint(const std::string& folder,
                                                              const std::string& file) {
  ASSIGN_OR_RETURN(const ConfigText config, ReadConfigText(StrCat(folder, "/config.json")));
  Fingerprint fingerprint;
  fingerprint.Add(config.text);
  CheckpointParts parts;
  parts.scheme = NameScheme::kHuggingFace;
  parts.path = file.empty() ? folder : StrCat(folder, "/", file);
  ASSIGN_OR_RETURN(Shards shards, FindShards(folder, file));
  ASSIGN_OR_RETURN(std::vector<SafetensorsTensor> tensors,
                   ReadTensors(folder, std::move(shards), parts, fingerprint));
  parts.fingerprint = fingerprint.Hex();

  const auto find = [&](const std::string& name) -> const SafetensorsTensor* {
    for (const SafetensorsTensor& tensor : tensors) {
      if (tensor.info.name == name) return &tensor;
    }
    return nullptr;
  };
  const SafetensorsTensor* embedding = nullptr;
  for (const Prefixes& candidate : kPrefixes) {
    if (embedding != nullptr) break;
    embedding = find(StrCat(candidate.body, "embed_tokens.weight"));
    parts.prefix = candidate.body;
    parts.head_prefix = candidate.head;
  }
  if (embedding == nullptr) {
    return Corrupt(StrCat(parts.path, ": the tensor model.embed_tokens.weight is missing"),
                   "model.embed_tokens.weight");
  }
  const std::string head = StrCat(parts.head_prefix, "lm_head.weight");
  ASSIGN_OR_RETURN(parts.config, ConfigFromJson(config.json, config.path,
                                                {.embedding = embedding->info.format,
                                                 .has_head = find(head) != nullptr}));
  for (const SafetensorsTensor& tensor : tensors) {
    if (IsIgnored(tensor.info.name, parts.config, head)) continue;
    if (!tensor.readable) {
      Error error = Unsupported(StrCat(parts.path, ": tensor ", tensor.info.name, " is of dtype ",
                                       tensor.dtype, "; this build reads F32, F16, BF16"));
      error.field = tensor.info.name;
      return error;
    }
    parts.tensors.push_back(tensor.info);
  }
  return MakeFileCheckpoint(std::move(parts));
}

}  // namespace echelon
