#include "tests/support/gguf_bytes.h"

#include "common/check.h"

namespace echelon {

std::string GgufText(std::string_view text) {
  return RawBytes(uint64_t{text.size()}) + std::string(text);
}

namespace {

uint32_t Number(GgufType type) { return static_cast<uint32_t>(type); }

void Pad(std::string& bytes, uint64_t alignment) {
  while (bytes.size() % alignment != 0) bytes.push_back('\0');
}

}  // namespace

void GgufSpec::Uint32(std::string key, uint32_t value) {
  values.push_back({std::move(key), Number(GgufType::kUint32), RawBytes(value)});
}
void GgufSpec::Int32(std::string key, int32_t value) {
  values.push_back({std::move(key), Number(GgufType::kInt32), RawBytes(value)});
}
void GgufSpec::Float32(std::string key, float value) {
  values.push_back({std::move(key), Number(GgufType::kFloat32), RawBytes(value)});
}
void GgufSpec::Bool(std::string key, bool value) {
  values.push_back({std::move(key), Number(GgufType::kBool), RawBytes(uint8_t{value})});
}
void GgufSpec::String(std::string key, std::string_view value) {
  values.push_back({std::move(key), Number(GgufType::kString), GgufText(value)});
}
void GgufSpec::Array(std::string key, GgufType element, uint64_t count, std::string_view bytes) {
  values.push_back({std::move(key), Number(GgufType::kArray),
                    RawBytes(Number(element)) + RawBytes(count) + std::string(bytes)});
}
void GgufSpec::Strings(std::string key, const std::vector<std::string>& list) {
  std::string bytes;
  for (const std::string& text : list) bytes += GgufText(text);
  Array(std::move(key), GgufType::kString, list.size(), bytes);
}
void GgufSpec::Floats(std::string key, const std::vector<float>& list) {
  std::string bytes;
  for (const float value : list) bytes += RawBytes(value);
  Array(std::move(key), GgufType::kFloat32, list.size(), bytes);
}
void GgufSpec::Ints(std::string key, const std::vector<int32_t>& list) {
  std::string bytes;
  for (const int32_t value : list) bytes += RawBytes(value);
  Array(std::move(key), GgufType::kInt32, list.size(), bytes);
}

GgufSpec::Value& GgufSpec::At(std::string_view key) {
  for (Value& value : values) {
    if (value.key == key) return value;
  }
  CHECK_MSG(false, "the specification has no key " + std::string(key));
  return values.front();
}

GgufSpec::Tensor& GgufSpec::TensorAt(std::string_view name) {
  for (Tensor& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  CHECK_MSG(false, "the specification has no tensor " + std::string(name));
  return tensors.front();
}

void GgufSpec::Remove(std::string_view key) {
  std::erase_if(values, [&](const Value& value) { return value.key == key; });
}

std::string GgufSpec::Build(uint64_t* header_bytes) const {
  std::string out = magic + RawBytes(version) + RawBytes(tensor_count.value_or(tensors.size())) +
                    RawBytes(value_count.value_or(values.size()));
  for (const Value& value : values) {
    out += GgufText(value.key) + RawBytes(value.type) + value.bytes;
  }
  std::string data;
  for (const Tensor& tensor : tensors) {
    out += GgufText(tensor.name) + RawBytes(static_cast<uint32_t>(tensor.sizes.size()));
    for (const uint64_t size : tensor.sizes) out += RawBytes(size);
    out += RawBytes(tensor.type) + RawBytes(tensor.offset.value_or(data.size()));
    data += tensor.data;
    Pad(data, alignment);
  }
  Pad(out, alignment);
  if (header_bytes != nullptr) *header_bytes = out.size();
  return out + data;
}

}  // namespace echelon
