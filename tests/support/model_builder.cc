#include "tests/support/model_builder.h"

#include <unistd.h>

#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "common/check.h"
#include "common/half.h"
#include "common/model/model_families.h"
#include "common/model/tensor_names.h"
#include "common/strings.h"
#include "tests/support/tiny_tokenizer.h"

namespace echelon {

namespace {

struct RawTensor {
  TensorRole role;
  int layer;
  TensorInfo info;
  std::string bytes;
};

std::string BytesOf(const TensorPiece& piece) {
  return {reinterpret_cast<const char*>(piece.bytes.data()), piece.bytes.size()};
}

// Every tensor of a checkpoint, whole.
std::vector<RawTensor> ReadAll(const Checkpoint& checkpoint) {
  std::vector<RawTensor> out;
  for (int r = 0; r < kTensorRoles; ++r) {
    const auto role = static_cast<TensorRole>(r);
    const int layers = IsGlobal(role) ? 1 : checkpoint.config().n_layers();
    for (int layer = 0; layer < layers; ++layer) {
      const TensorInfo* info = checkpoint.Find(role, layer);
      if (info == nullptr) continue;
      auto piece = checkpoint.Read(*info, {0, info->rows}, {0, info->cols});
      out.push_back({role, layer, *info, BytesOf(piece.value())});
    }
  }
  return out;
}

// llama.cpp's converter puts rows i and i + head/2 of a head side by side.
std::string InterleaveRows(const RawTensor& tensor, int head_dim) {
  const auto row = static_cast<size_t>(tensor.info.row_bytes);
  std::string out;
  for (int64_t head = 0; head < tensor.info.rows / head_dim; ++head) {
    for (int i = 0; i < head_dim / 2; ++i) {
      for (const int half : {0, head_dim / 2}) {
        out += tensor.bytes.substr(static_cast<size_t>(head * head_dim + half + i) * row, row);
      }
    }
  }
  return out;
}

float LoadFloat(TensorFormat format, const char* at) {
  uint16_t half = 0;
  float value = 0.0f;
  std::memcpy(&half, at, sizeof half);
  if (format == TensorFormat::kF16) return HalfToFloat(half);
  if (format == TensorFormat::kBF16) return std::bit_cast<float>(uint32_t{half} << 16);
  CHECK(format == TensorFormat::kF32);
  std::memcpy(&value, at, sizeof value);
  return value;
}

// Converters write vectors as F32, and Gemma's norms with the 1 added that its formula adds.
void ConvertVector(float added, RawTensor& tensor) {
  const auto size = static_cast<size_t>(InfoOf(tensor.info.format).block_bytes);
  std::string out;
  for (size_t i = 0; i < tensor.bytes.size(); i += size) {
    out += RawBytes(LoadFloat(tensor.info.format, &tensor.bytes[i]) + added);
  }
  tensor.bytes = std::move(out);
  tensor.info.format = TensorFormat::kF32;
}

const ModelFamily& FamilyNamed(const std::string& name) {
  for (const ModelFamily& family : ModelFamilies()) {
    if (family.name == name) return family;
  }
  CHECK_MSG(false, "no family " + name);
  return ModelFamilies().front();
}

void AddMetadata(const TinyModel& model, const std::string& arch, GgufSpec& spec) {
  const auto key = [&](const char* name) { return StrCat(arch, ".", name); };
  const bool gemma = model.family == "gemma3";
  spec.String("general.architecture", arch);
  spec.String("general.name", StrCat("tiny ", model.family));
  spec.Uint32(key("block_count"), model.n_layers);
  spec.Uint32(key("context_length"), model.context);
  spec.Uint32(key("embedding_length"), model.d_model);
  spec.Uint32(key("feed_forward_length"), model.d_ff);
  spec.Uint32(key("attention.head_count"), model.n_heads);
  spec.Uint32(key("attention.head_count_kv"), model.n_kv_heads);
  spec.Uint32(key("attention.key_length"), model.head_dim);
  spec.Uint32(key("attention.value_length"), model.head_dim);
  spec.Uint32(key("rope.dimension_count"), model.head_dim);
  spec.Float32(key("attention.layer_norm_rms_epsilon"), 1e-6f);
  spec.Float32(key("rope.freq_base"), gemma ? 1e6f : 10000.0f);
  if (gemma || model.family == "mistral") {
    spec.Uint32(key("attention.sliding_window"), model.window);
  }
}

void AddVocabulary(int size, GgufSpec& spec) {
  const TinyVocabulary vocabulary = MakeTinyVocabulary(size);
  std::vector<int32_t> types(vocabulary.tokens.size(), 1);  // 1 normal, 3 control
  for (int i = vocabulary.first_special; i < vocabulary.first_filler; ++i) types[i] = 3;
  spec.String("tokenizer.ggml.model", "gpt2");
  spec.String("tokenizer.ggml.pre", "gpt-2");
  spec.Strings("tokenizer.ggml.tokens", vocabulary.tokens);
  spec.Ints("tokenizer.ggml.token_type", types);
  spec.Strings("tokenizer.ggml.merges", vocabulary.merges);
  spec.Uint32("tokenizer.ggml.bos_token_id", vocabulary.first_special);
  spec.Uint32("tokenizer.ggml.eos_token_id", vocabulary.first_special + 2);
  spec.Bool("tokenizer.ggml.add_bos_token", false);
  spec.String("tokenizer.chat_template", kTinyChatTemplate);
}

const char* DtypeOf(TensorFormat format) {
  switch (format) {
    case TensorFormat::kF32:
      return "F32";
    case TensorFormat::kF16:
      return "F16";
    case TensorFormat::kBF16:
      return "BF16";
    default:
      CHECK_MSG(false, "safetensors hold F32, F16, BF16");
      return "";
  }
}

Json EntryOf(const RawTensor& tensor, uint64_t begin) {
  Json shape = Json::MakeArray(), offsets = Json::MakeArray();
  if (tensor.info.rows > 1) shape.Append(tensor.info.rows);
  shape.Append(tensor.info.cols);
  offsets.Append(Json(begin));
  offsets.Append(Json(begin + tensor.bytes.size()));
  return Json::Object{{"dtype", DtypeOf(tensor.info.format)},
                      {"shape", std::move(shape)},
                      {"data_offsets", std::move(offsets)}};
}

}  // namespace

Json TinyConfig(const TinyModel& model) {
  const ModelFamily& family = FamilyNamed(model.family);
  const bool gemma = model.family == "gemma3";
  Json json = Json::Object{{"model_type", family.hf_model_type},
                           {"_name_or_path", StrCat("tiny ", model.family)},
                           {"hidden_size", model.d_model},
                           {"num_hidden_layers", model.n_layers},
                           {"num_attention_heads", model.n_heads},
                           {"num_key_value_heads", model.n_kv_heads},
                           {"head_dim", model.head_dim},
                           {"intermediate_size", model.d_ff},
                           {"vocab_size", model.vocab},
                           {"max_position_embeddings", model.context},
                           {"rms_norm_eps", 1e-6},
                           {"rope_theta", gemma ? 1e6 : 1e4},
                           {"tie_word_embeddings", model.tied},
                           {"eos_token_id", kTinyVocabularyMin - 1}};
  if (gemma) json.Set("query_pre_attn_scalar", model.head_dim);
  if (gemma || model.family == "mistral") json.Set("sliding_window", model.window);
  for (const auto& [key, value] : model.extra.as_object()) json.Set(key, value);
  return json;
}

std::unique_ptr<Checkpoint> TinyDummy(const TinyModel& model, const std::string& folder) {
  WriteFile(folder + "/config.json", TinyConfig(model).Dump());
  auto checkpoint = OpenCheckpoint(
      folder, {.load_format = "dummy", .dummy_seed = model.seed, .dummy_format = model.format});
  return std::move(checkpoint).value();
}

void WriteTinySafetensors(const TinyModel& model, const std::string& folder, int parts) {
  const auto checkpoint = TinyDummy(model, folder);
  WriteFile(folder + "/tokenizer.json", TinyTokenizerJson(MakeTinyVocabulary(model.vocab)).Dump());
  WriteFile(
      folder + "/tokenizer_config.json",
      Json(Json::Object{{"eos_token", "<|im_end|>"}, {"chat_template", kTinyChatTemplate}}).Dump());
  std::vector<Json> headers(parts, Json::MakeObject());
  std::vector<std::string> data(parts);
  Json where = Json::MakeObject();
  int next = 0;
  for (const RawTensor& tensor : ReadAll(*checkpoint)) {
    const int part = next++ % parts;
    const std::string name = StrCat(
        tensor.role == TensorRole::kLmHead ? "" : "model.",
        TensorName(checkpoint->config(), NameScheme::kHuggingFace, tensor.role, tensor.layer));
    headers[part].Set(name, EntryOf(tensor, data[part].size()));
    data[part] += tensor.bytes;
    where.Set(name, StrCat("model-", part, ".safetensors"));
  }
  for (int p = 0; p < parts; ++p) {
    const std::string name = parts == 1 ? "model.safetensors" : StrCat("model-", p, ".safetensors");
    WriteFile(folder + "/" + name, SafetensorsBytes(headers[p].Dump(), data[p]));
  }
  if (parts > 1) {
    WriteFile(folder + "/model.safetensors.index.json",
              Json(Json::Object{{"metadata", Json::MakeObject()}, {"weight_map", where}}).Dump());
  }
}

GgufSpec TinyGguf(const TinyModel& model) {
  const ModelFamily& family = FamilyNamed(model.family);
  CHECK_MSG(!family.ladder, "GGUF has no ladder models");
  // Mistral files call themselves llama.
  const std::string arch(family.gguf_architecture.empty() ? "llama" : family.gguf_architecture);
  const ScratchFolder scratch;
  const auto checkpoint = TinyDummy(model, scratch.path());
  GgufSpec spec;
  AddMetadata(model, arch, spec);
  AddVocabulary(model.vocab, spec);
  for (RawTensor& tensor : ReadAll(*checkpoint)) {
    const bool rotated = tensor.role == TensorRole::kQuery || tensor.role == TensorRole::kKey;
    if (rotated && arch == "llama") tensor.bytes = InterleaveRows(tensor, model.head_dim);
    if (tensor.info.rows == 1) {
      ConvertVector(checkpoint->config().norm_plus_one ? 1.0f : 0.0f, tensor);
    }
    std::vector<uint64_t> sizes{static_cast<uint64_t>(tensor.info.cols)};
    if (tensor.info.rows > 1) sizes.push_back(static_cast<uint64_t>(tensor.info.rows));
    spec.tensors.push_back(
        {tensor.info.name, sizes, InfoOf(tensor.info.format).ggml_type, std::move(tensor.bytes)});
  }
  return spec;
}

std::string WriteTinyGguf(const TinyModel& model, const std::string& path) {
  WriteFile(path, TinyGguf(model).Build());
  return path;
}

std::string SafetensorsBytes(std::string_view header, std::string_view data) {
  return RawBytes(uint64_t{header.size()}) + std::string(header) + std::string(data);
}

void WriteFile(const std::string& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  CHECK_MSG(out.good(), "cannot write " + path);
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  CHECK_MSG(in.good(), "cannot read " + path);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

ScratchFolder::ScratchFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "echelon-test-XXXXXX").string();
  CHECK_MSG(::mkdtemp(name.data()) != nullptr, "no temporary folder");
  path_ = name;
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace echelon
