#pragma once
// GgufSpec: a GGUF file as a value that a test can bend before its bytes are made. Everything that
// the format derives (counts, offsets, padding) may be overruled to make a hostile file.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/model/gguf.h"

namespace echelon {

// The bytes of a number as it lies in memory.
template <typename T>
std::string RawBytes(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}
// Length and text, as GGUF stores a string.
std::string GgufText(std::string_view text);

struct GgufSpec {
  struct Value {
    std::string key;
    uint32_t type;
    std::string bytes;  // what follows the type
  };
  struct Tensor {
    std::string name;
    std::vector<uint64_t> sizes;  // columns first
    uint32_t type;
    std::string data;
    std::optional<uint64_t> offset = {};
  };
  std::string magic = "GGUF";
  uint32_t version = 3;
  std::optional<uint64_t> tensor_count, value_count;
  uint64_t alignment = 32;
  std::vector<Value> values;
  std::vector<Tensor> tensors;

  void Uint32(std::string key, uint32_t value);
  void Int32(std::string key, int32_t value);
  void Float32(std::string key, float value);
  void Bool(std::string key, bool value);
  void String(std::string key, std::string_view value);
  void Strings(std::string key, const std::vector<std::string>& list);
  void Floats(std::string key, const std::vector<float>& list);
  void Ints(std::string key, const std::vector<int32_t>& list);
  void Array(std::string key, GgufType element, uint64_t count, std::string_view bytes);
  // The value of this key, to be bent; it must be there.
  Value& At(std::string_view key);
  Tensor& TensorAt(std::string_view name);
  void Remove(std::string_view key);

  // `header_bytes`, where given, receives where the tensor data begins.
  std::string Build(uint64_t* header_bytes = nullptr) const;
};

}  // namespace echelon
