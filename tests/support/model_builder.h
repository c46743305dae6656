#pragma once
// Tiny random models for tests, of every family, as GGUF file, safetensors folder and dummy
// configuration. All three hold the same numbers (GGUF in its own order of q and k rows and with
// Gemma's norms shifted by one, as its converters write them), so that they must answer alike.

#include <cstdint>
#include <string>

#include "common/json.h"
#include "common/model/checkpoint.h"
#include "tests/support/gguf_bytes.h"

namespace echelon {

struct TinyModel {
  std::string family = "llama";  // llama mistral qwen2 qwen3 gemma3 llamaLadder
  int d_model = 64;
  int n_layers = 2;
  int n_heads = 4;
  int n_kv_heads = 2;
  int head_dim = 16;
  int d_ff = 96;
  int vocab = 320;  // at least kTinyVocabularyMin
  int context = 256;
  int window = 8;  // mistral, gemma3
  bool tied = true;
  // Of matrices; rows that are no whole number of blocks stay BF16. Safetensors: F32, F16, BF16.
  TensorFormat format = TensorFormat::kF32;
  uint64_t seed = 1;
  Json extra = Json::MakeObject();  // further or replaced members of config.json
};

// 256 bytes, three special tokens and the merges of "hello": the smallest vocabulary.
inline constexpr int kTinyVocabularyMin = 263;

// The model's config.json.
Json TinyConfig(const TinyModel& model);
// The same weights as a dummy checkpoint; `folder` receives config.json.
std::unique_ptr<Checkpoint> TinyDummy(const TinyModel& model, const std::string& folder);
// Writes config.json, tokenizer.json and model.safetensors (or an index and `parts` files).
void WriteTinySafetensors(const TinyModel& model, const std::string& folder, int parts = 1);
// The GGUF file as a value; family llamaLadder has no GGUF form.
GgufSpec TinyGguf(const TinyModel& model);
// Writes it with a byte-level BPE tokenizer; returns `path`.
std::string WriteTinyGguf(const TinyModel& model, const std::string& path);

// The bytes of a safetensors file: 8 bytes of length, the header's text, the data.
std::string SafetensorsBytes(std::string_view header, std::string_view data);

void WriteFile(const std::string& path, std::string_view bytes);
std::string ReadFile(const std::string& path);
// A new folder under the test's temporary folder, removed with the object.
class ScratchFolder {
 public:
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

}  // namespace echelon
