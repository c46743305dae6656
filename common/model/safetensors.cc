#include "common/model/safetensors.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "common/checked.h"
#include "common/json.h"
#include "common/strings.h"

namespace echelon {

namespace {

struct Dtype {
  std::string_view name;
  uint64_t bits;
  std::optional<TensorFormat> format;  // none: checked, but not read
};
constexpr Dtype kDtypes[] = {
    {"F32", 32, TensorFormat::kF32},
    {"F16", 16, TensorFormat::kF16},
    {"BF16", 16, TensorFormat::kBF16},
    {"F64", 64, {}},
    {"I64", 64, {}},
    {"U64", 64, {}},
    {"I32", 32, {}},
    {"U32", 32, {}},
    {"I16", 16, {}},
    {"U16", 16, {}},
    {"I8", 8, {}},
    {"U8", 8, {}},
    {"BOOL", 8, {}},
    {"F8_E4M3", 8, {}},
    {"F8_E5M2", 8, {}},
    {"F8_E8M0", 8, {}},
};
constexpr size_t kDimensionsMax = 8;
constexpr size_t kNameBytesMax = 512;

const Dtype* FindDtype(std::string_view name) {
  for (const Dtype& dtype : kDtypes) {
    if (dtype.name == name) return &dtype;
  }
  return nullptr;
}

// Parses one header; `path_` and the tensor's name stand in every error.
class HeaderParser {
 public:
  HeaderParser(std::string path, uint64_t data_begin, uint64_t data_bytes)
      : path_(std::move(path)), data_begin_(data_begin), data_bytes_(data_bytes) {}
  Result<std::vector<SafetensorsTensor>> Parse(const Json& header);

 private:
  Error Fail(std::string_view tensor, std::string_view message) const {
    return Corrupt(StrCat(path_, ": tensor ", tensor, ": ", message), std::string(tensor));
  }
  Result<SafetensorsTensor> ParseTensor(const std::string& name, const Json& json) const;
  Status CheckNoGaps(const std::vector<SafetensorsTensor>& tensors) const;
  // A list of non-negative integers, of between `least` and `most` elements.
  Result<std::vector<uint64_t>> Integers(const std::string& name, const Json& json,
                                         std::string_view key, size_t least, size_t most) const;

  std::string path_;
  uint64_t data_begin_;
  uint64_t data_bytes_;
};

Result<std::vector<uint64_t>> HeaderParser::Integers(const std::string& name, const Json& json,
                                                     std::string_view key, size_t least,
                                                     size_t most) const {
  const Json* list = json.Find(key);
  if (list == nullptr || !list->is_array()) return Fail(name, StrCat(key, " is no list"));
  if (list->as_array().size() < least || list->as_array().size() > most) {
    return Fail(name, StrCat(key, " has ", list->as_array().size(), " elements; allowed are ",
                             least, " to ", most));
  }
  std::vector<uint64_t> out;
  for (const Json& item : list->as_array()) {
    if (!item.is_int() || item.as_int() < 0) {
      return Fail(name, StrCat(key, " holds something else than integers from 0 to 2^63 - 1"));
    }
    out.push_back(static_cast<uint64_t>(item.as_int()));
  }
  return out;
}

Result<SafetensorsTensor> HeaderParser::ParseTensor(const std::string& name,
                                                    const Json& json) const {
  if (!json.is_object()) return Fail(name, "its entry is no object");
  const Json* dtype_name = json.Find("dtype");
  if (dtype_name == nullptr || !dtype_name->is_string()) return Fail(name, "dtype is no text");
  const Dtype* dtype = FindDtype(dtype_name->as_string());
  if (dtype == nullptr) {
    return Fail(name, StrCat("unknown dtype \"", dtype_name->as_string().substr(0, 32), "\""));
  }
  ASSIGN_OR_RETURN(const std::vector<uint64_t> shape,
                   Integers(name, json, "shape", 0, kDimensionsMax));
  ASSIGN_OR_RETURN(const std::vector<uint64_t> offsets, Integers(name, json, "data_offsets", 2, 2));
  if (offsets[0] > offsets[1] || offsets[1] > data_bytes_) {
    return Fail(name, StrCat("data_offsets ", offsets[0], " to ", offsets[1],
                             " are reversed or beyond the file's ", data_bytes_, " data bytes"));
  }
  SafetensorsTensor tensor;
  tensor.info.name = name;
  tensor.dtype = dtype->name;
  tensor.readable = dtype->format.has_value();
  tensor.info.format = dtype->format.value_or(TensorFormat::kF32);
  tensor.info.offset = data_begin_ + offsets[0];
  const uint64_t cols = shape.empty() ? 1 : shape.back();
  Checked rows = 1;
  for (size_t d = 0; d + 1 < shape.size(); ++d) rows = rows * shape[d];
  const Checked row_bytes = Checked(cols) * (dtype->bits / 8);
  const auto bytes = (rows * row_bytes).Get();
  if (!bytes || *bytes != offsets[1] - offsets[0] || !rows.AtMost(INT64_MAX) ||
      !row_bytes.AtMost(INT64_MAX)) {
    return Fail(name, StrCat("its shape and dtype do not make the ", offsets[1] - offsets[0],
                             " bytes that data_offsets give it"));
  }
  tensor.info.rows = static_cast<int64_t>(*rows.Get());
  tensor.info.cols = static_cast<int64_t>(cols);
  tensor.info.row_bytes = static_cast<int64_t>(*row_bytes.Get());
  return tensor;
}

Status HeaderParser::CheckNoGaps(const std::vector<SafetensorsTensor>& tensors) const {
  std::vector<const TensorInfo*> by_offset;
  for (const SafetensorsTensor& tensor : tensors) by_offset.push_back(&tensor.info);
  const auto bytes_of = [](const TensorInfo& t) {
    return static_cast<uint64_t>(t.rows) * static_cast<uint64_t>(t.row_bytes);
  };
  std::sort(by_offset.begin(), by_offset.end(), [&](const TensorInfo* a, const TensorInfo* b) {
    return std::pair(a->offset, bytes_of(*a)) < std::pair(b->offset, bytes_of(*b));
  });
  uint64_t expected = data_begin_;
  for (const TensorInfo* tensor : by_offset) {
    if (tensor->offset != expected) {
      return Fail(tensor->name, tensor->offset < expected ? "it overlaps the tensor before it"
                                                          : "there is a hole before it");
    }
    expected += bytes_of(*tensor);
  }
  if (expected != data_begin_ + data_bytes_) {
    return Corrupt(StrCat(path_, ": ", data_begin_ + data_bytes_ - expected,
                          " bytes after the last tensor belong to none"),
                   "data_offsets");
  }
  return {};
}

Result<std::vector<SafetensorsTensor>> HeaderParser::Parse(const Json& header) {
  std::vector<SafetensorsTensor> tensors;
  for (const auto& [name, value] : header.as_object()) {
    if (name == "__metadata__") {
      if (!value.is_object()) return Fail(name, "it is no object of texts");
      for (const auto& member : value.as_object()) {
        if (!member.second.is_string()) return Fail(name, "it is no object of texts");
      }
      continue;
    }
    const bool printable =
        std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c <= '~'; });
    if (name.empty() || name.size() > kNameBytesMax || !printable) {
      return Fail(StrCat("number ", tensors.size()),
                  StrCat("its name is not of 1 to ", kNameBytesMax, " printable characters"));
    }
    ASSIGN_OR_RETURN(SafetensorsTensor tensor, ParseTensor(name, value));
    tensors.push_back(std::move(tensor));
  }
  RETURN_IF_ERROR(CheckNoGaps(tensors));
  return tensors;
}

}  // namespace

Result<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(File file, File::Open(path));
  uint64_t header_bytes = 0;
  if (file.size() < sizeof header_bytes + 2) {
    return Corrupt(StrCat(path, ": ", file.size(), " bytes are no safetensors file"), "header");
  }
  RETURN_IF_ERROR(file.Read(0, std::as_writable_bytes(std::span(&header_bytes, 1))));
  const uint64_t rest = file.size() - sizeof header_bytes;
  if (header_bytes < 2 || header_bytes > rest || header_bytes > kSafetensorsHeaderBytesMax) {
    return Corrupt(StrCat(path, ": a header of ", header_bytes, " bytes; allowed are 2 to ",
                          std::min(rest, kSafetensorsHeaderBytesMax)),
                   "header");
  }
  std::string text(header_bytes, '\0');
  RETURN_IF_ERROR(file.Read(sizeof header_bytes, std::as_writable_bytes(std::span(text))));
  if (text[0] != '{') return Corrupt(StrCat(path, ": the header is no JSON object"), "header");
  ASSIGN_OR_RETURN(const Json json, Json::Parse(text, StrCat(path, ": header"),
                                                {.bytes_max = kSafetensorsHeaderBytesMax,
                                                 .depth_max = 8,
                                                 .values_max = kSafetensorsValuesMax}));
  HeaderParser parser(path, sizeof header_bytes + header_bytes, rest - header_bytes);
  ASSIGN_OR_RETURN(std::vector<SafetensorsTensor> tensors, parser.Parse(json));
  return SafetensorsFile{std::move(file), std::move(text), std::move(tensors)};
}

}  // namespace echelon
