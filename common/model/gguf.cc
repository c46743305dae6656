#include "common/model/gguf.h"

#include <sys/mman.h>

#include <bit>
#include <cstring>
#include <optional>

#include "common/strings.h"

namespace echelon {

static_assert(std::endian::native == std::endian::little, "GGUF is read as it lies");

const char* GgufTypeName(GgufType type) {
  static constexpr const char* kNames[] = {"uint8",  "int8",    "uint16", "int16",  "uint32",
                                           "int32",  "float32", "bool",   "string", "array",
                                           "uint64", "int64",   "float64"};
  const auto index = static_cast<size_t>(type);
  return index < std::size(kNames) ? kNames[index] : "unknown";
}

namespace {

template <typename T>
T Load(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// Element `index` of a value that stores integers.
std::optional<int64_t> LoadInteger(GgufType type, const char* base, uint64_t index) {
  switch (type) {
    case GgufType::kUint8:
      return Load<uint8_t>(base + index);
    case GgufType::kInt8:
      return Load<int8_t>(base + index);
    case GgufType::kUint16:
      return Load<uint16_t>(base + 2 * index);
    case GgufType::kInt16:
      return Load<int16_t>(base + 2 * index);
    case GgufType::kUint32:
      return Load<uint32_t>(base + 4 * index);
    case GgufType::kInt32:
      return Load<int32_t>(base + 4 * index);
    case GgufType::kInt64:
      return Load<int64_t>(base + 8 * index);
    case GgufType::kUint64: {
      const auto value = Load<uint64_t>(base + 8 * index);
      if (value > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

std::optional<double> LoadNumber(GgufType type, const char* base, uint64_t index) {
  if (type == GgufType::kFloat32) return Load<float>(base + 4 * index);
  if (type == GgufType::kFloat64) return Load<double>(base + 8 * index);
  if (const auto integer = LoadInteger(type, base, index)) return static_cast<double>(*integer);
  return std::nullopt;
}

Error WrongKind(const std::string& path, const GgufValue& value, const char* wanted) {
  const bool array = value.type == GgufType::kArray;
  return Corrupt(StrCat(path, ": ", value.key, " is ", array ? "an array of " : "of type ",
                        GgufTypeName(value.element), " that cannot be read as ", wanted),
                 std::string(value.key));
}

}  // namespace

GgufFile::~GgufFile() {
  if (memory_ != nullptr) ::munmap(memory_, reserved_bytes_);
}

const GgufValue* GgufFile::Find(std::string_view key) const {
  for (const GgufValue& value : values_) {
    if (value.key == key) return &value;
  }
  return nullptr;
}

Result<const GgufValue*> GgufFile::Need(std::string_view key) const {
  if (const GgufValue* value = Find(key)) return value;
  return Corrupt(StrCat(path(), ": the metadata has no ", key), std::string(key));
}

Result<int64_t> GgufFile::Integer(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Need(key));
  if (const auto integer = LoadInteger(value->type, value->bytes.data(), 0)) return *integer;
  return WrongKind(path(), *value, "an integer");
}

Result<double> GgufFile::Number(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Need(key));
  if (const auto number = LoadNumber(value->type, value->bytes.data(), 0)) return *number;
  return WrongKind(path(), *value, "a number");
}

Result<bool> GgufFile::Bool(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Need(key));
  if (value->type == GgufType::kBool) return value->bytes[0] != 0;
  return WrongKind(path(), *value, "true or false");
}

Result<std::string_view> GgufFile::String(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Need(key));
  if (value->type == GgufType::kString) return value->bytes;
  return WrongKind(path(), *value, "text");
}

Result<std::vector<std::string_view>> GgufFile::Strings(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Need(key));
  if (value->type != GgufType::kArray || value->element != GgufType::kString) {
    return WrongKind(path(), *value, "a list of texts");
  }
  std::vector<std::string_view> out;
  out.reserve(value->count);
  std::string_view rest = value->bytes;  // lengths were checked by the parser
  for (uint64_t i = 0; i < value->count; ++i) {
    const auto length = Load<uint64_t>(rest.data());
    out.push_back(rest.substr(sizeof length, length));
    rest.remove_prefix(sizeof length + length);
  }
  return out;
}

Result<std::vector<int64_t>> GgufFile::Integers(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Need(key));
  if (value->type != GgufType::kArray || value->count > kGgufStringsMax) {
    return WrongKind(path(), *value, "a list of integers");
  }
  std::vector<int64_t> out(value->count);
  for (uint64_t i = 0; i < value->count; ++i) {
    const bool is_bool = value->element == GgufType::kBool;  // a pattern of layers
    const auto integer =
        LoadInteger(is_bool ? GgufType::kUint8 : value->element, value->bytes.data(), i);
    if (!integer) return WrongKind(path(), *value, "a list of integers");
    out[i] = *integer;
  }
  return out;
}

Result<std::vector<float>> GgufFile::Floats(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Need(key));
  if (value->type != GgufType::kArray || value->element != GgufType::kFloat32 ||
      value->count > kGgufStringsMax) {
    return WrongKind(path(), *value, "a list of float32");
  }
  std::vector<float> out(value->count);
  std::memcpy(out.data(), value->bytes.data(), value->bytes.size());
  return out;
}

}  // namespace echelon
