// The parser of an untrusted GGUF header. Layout (little-endian): "GGUF", version u32, tensors u64,
// values u64; values: key, type u32, value; tensors: name, dimensions u32, sizes u64 each, type
// u32, offset u64 from the data, which begins at the next multiple of general.alignment.

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <unordered_set>

#include "common/checked.h"
#include "common/model/gguf.h"
#include "common/strings.h"

namespace echelon {

namespace {

// The specification allows keys of 65,535 bytes; the longest in use has below 80, and names stand
// in error messages.
constexpr uint64_t kKeyBytesMax = 256;
constexpr uint64_t kTensorNameBytesMax = 64;  // GGUF specification
constexpr uint32_t kDimensionsMax = 4;        // GGML
constexpr uint64_t kAlignmentDefault = 32;    // GGUF specification
constexpr uint64_t kAlignmentMax = 1 << 20;   // beyond any page size in use
constexpr uint64_t kChunkBytes = 1 << 20;     // read ahead: header sizes are 0.1 to 8 MiB

// Names are ASCII in every file there is; so a message that holds one stays one clean line.
bool IsPrintableName(std::string_view name, uint64_t bytes_max) {
  return !name.empty() && name.size() <= bytes_max &&
         std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c <= '~'; });
}

uint64_t BytesOfType(GgufType type) {  // 0: not of fixed size
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool:
      return 1;
    case GgufType::kUint16:
    case GgufType::kInt16:
      return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32:
      return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64:
      return 8;
    default:
      return 0;
  }
}

}  // namespace

class GgufParser {
 public:
  explicit GgufParser(GgufFile& out) : out_(out) {}
  Status Run();

 private:
  // Bytes [position, position + size) as a view, read from the file if need be; moves on.
  Result<std::string_view> Take(Checked size, std::string_view what);
  template <typename T>
  Result<T> TakeNumber(std::string_view what);
  Result<std::string_view> TakeString(std::string_view what);

  Status ReserveMemory();
  Status ParseValue();
  Status ParseArray(GgufValue& value);
  Status ParseTensor();
  Status ParseAlignment();
  Status PlaceTensors();
  Error Fail(std::string_view message, std::string_view field) const {
    return Corrupt(StrCat(out_.path(), ": ", message), std::string(field));
  }

  GgufFile& out_;
  uint64_t position_ = 0;
  uint64_t filled_ = 0;
  uint64_t alignment_ = kAlignmentDefault;
  std::unordered_set<std::string_view> keys_;
  std::unordered_set<std::string> names_;
};

Status GgufParser::ReserveMemory() {
  const uint64_t size = out_.file_.size();
  void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return ResourceExhausted(
        StrCat(out_.path(), ": no address space for ", size, " bytes: ", std::strerror(errno)));
  }
  out_.memory_ = static_cast<char*>(memory);
  out_.reserved_bytes_ = size;
  return {};
}

Result<std::string_view> GgufParser::Take(Checked size, std::string_view what) {
  const uint64_t file_bytes = out_.file_.size();
  const Checked end = Checked(position_) + size;
  if (!end.AtMost(file_bytes)) {
    return Fail(StrCat("truncated or corrupt: ", what, " at byte ", position_,
                       " reaches beyond the file's ", file_bytes, " bytes"),
                what);
  }
  const uint64_t stop = *end.Get();
  if (stop > filled_) {
    const uint64_t until = std::min(file_bytes, std::max(stop, filled_ + kChunkBytes));
    const std::span<char> gap(out_.memory_ + filled_, until - filled_);
    RETURN_IF_ERROR(out_.file_.Read(filled_, std::as_writable_bytes(gap)));
    filled_ = until;
  }
  const std::string_view bytes(out_.memory_ + position_, stop - position_);
  position_ = stop;
  return bytes;
}

template <typename T>
Result<T> GgufParser::TakeNumber(std::string_view what) {
  ASSIGN_OR_RETURN(const std::string_view bytes, Take(sizeof(T), what));
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

Result<std::string_view> GgufParser::TakeString(std::string_view what) {
  ASSIGN_OR_RETURN(const uint64_t length, TakeNumber<uint64_t>(what));
  return Take(length, what);
}

Status GgufParser::ParseArray(GgufValue& value) {
  ASSIGN_OR_RETURN(const uint32_t element, TakeNumber<uint32_t>(value.key));
  ASSIGN_OR_RETURN(value.count, TakeNumber<uint64_t>(value.key));
  value.element = static_cast<GgufType>(element);
  if (value.element == GgufType::kString) {
    if (value.count > kGgufStringsMax) {
      return Fail(StrCat(value.key, " has ", value.count, " texts, the limit is ", kGgufStringsMax),
                  value.key);
    }
    const uint64_t begin = position_;
    for (uint64_t i = 0; i < value.count; ++i) RETURN_IF_ERROR(TakeString(value.key));
    value.bytes = {out_.memory_ + begin, position_ - begin};
    return {};
  }
  const uint64_t size = BytesOfType(value.element);
  if (size == 0) {
    return Fail(StrCat(value.key, " is an array of element type ", element,
                       "; only numbers, bools and strings are allowed"),
                value.key);
  }
  ASSIGN_OR_RETURN(value.bytes, Take(Checked(value.count) * size, value.key));
  return {};
}

Status GgufParser::ParseValue() {
  GgufValue value;
  const std::string what = StrCat("metadata key ", out_.values_.size());
  ASSIGN_OR_RETURN(value.key, TakeString(what));
  if (!IsPrintableName(value.key, kKeyBytesMax)) {
    return Fail(StrCat(what, " is not of 1 to ", kKeyBytesMax, " printable characters"), what);
  }
  if (!keys_.insert(value.key).second) {
    return Fail(StrCat("duplicate metadata key ", value.key), value.key);
  }
  ASSIGN_OR_RETURN(const uint32_t type, TakeNumber<uint32_t>(value.key));
  value.type = value.element = static_cast<GgufType>(type);
  if (value.type == GgufType::kArray) {
    RETURN_IF_ERROR(ParseArray(value));
  } else if (value.type == GgufType::kString) {
    ASSIGN_OR_RETURN(value.bytes, TakeString(value.key));
  } else if (const uint64_t size = BytesOfType(value.type); size > 0) {
    ASSIGN_OR_RETURN(value.bytes, Take(size, value.key));
  } else {
    return Fail(StrCat(value.key, " has the unknown metadata type ", type), value.key);
  }
  if (value.type == GgufType::kBool && static_cast<unsigned char>(value.bytes[0]) > 1) {
    return Fail(StrCat(value.key, " is a bool that is neither 0 nor 1"), value.key);
  }
  out_.values_.push_back(value);
  return {};
}

Status GgufParser::ParseTensor() {
  TensorInfo tensor;
  const std::string what = StrCat("name of tensor ", out_.tensors_.size());
  ASSIGN_OR_RETURN(const std::string_view name, TakeString(what));
  if (!IsPrintableName(name, kTensorNameBytesMax)) {
    return Fail(StrCat(what, " is not of 1 to ", kTensorNameBytesMax, " printable characters"),
                what);
  }
  tensor.name = name;
  if (!names_.insert(tensor.name).second) {
    return Fail(StrCat("duplicate tensor ", name), name);
  }
  ASSIGN_OR_RETURN(const uint32_t dimensions, TakeNumber<uint32_t>(name));
  if (dimensions < 1 || dimensions > kDimensionsMax) {
    return Fail(StrCat("tensor ", name, " has ", dimensions, " dimensions; allowed are 1 to ",
                       kDimensionsMax),
                name);
  }
  uint64_t columns = 0;
  Checked rows = 1;
  for (uint32_t d = 0; d < dimensions; ++d) {
    ASSIGN_OR_RETURN(const uint64_t size, TakeNumber<uint64_t>(name));
    if (size == 0) return Fail(StrCat("dimension ", d, " of tensor ", name, " is 0"), name);
    if (d == 0) columns = size;
    if (d > 0) rows = rows * size;
  }
  ASSIGN_OR_RETURN(const uint32_t type, TakeNumber<uint32_t>(name));
  ASSIGN_OR_RETURN(tensor.offset, TakeNumber<uint64_t>(name));
  const TensorFormatInfo* format = FindGgmlType(type);
  if (format == nullptr) {
    std::vector<std::string> known;
    for (const TensorFormatInfo& f : TensorFormats()) known.emplace_back(f.name);
    return Unsupported(StrCat(out_.path(), ": tensor ", name, " has the GGML type ", type,
                              "; this build reads ", Join(known, ", ")));
  }
  tensor.format = format->format;
  const auto block = static_cast<uint64_t>(format->block_elements);
  if (columns % block != 0) {
    return Fail(StrCat("tensor ", name, " has rows of ", columns, " elements, no multiple of the ",
                       block, " of a ", format->name, " block"),
                name);
  }
  // Each product is bounded by the file's size, so that all of them fit int64_t afterwards.
  const Checked row_bytes = Checked(columns / block) * static_cast<uint64_t>(format->block_bytes);
  if (!(row_bytes * rows).AtMost(out_.file_.size())) {
    return Fail(
        StrCat("tensor ", name, " would take more bytes than the file's ", out_.file_.size()),
        name);
  }
  tensor.cols = static_cast<int64_t>(columns);
  tensor.rows = static_cast<int64_t>(*rows.Get());
  tensor.row_bytes = static_cast<int64_t>(*row_bytes.Get());
  out_.tensors_.push_back(std::move(tensor));
  return {};
}

Status GgufParser::ParseAlignment() {
  const GgufValue* value = out_.Find("general.alignment");
  if (value == nullptr) return {};
  if (value->type != GgufType::kUint32) {
    return Fail(
        StrCat("general.alignment is of type ", GgufTypeName(value->type), "; it must be uint32"),
        value->key);
  }
  ASSIGN_OR_RETURN(const int64_t alignment, out_.Integer(value->key));
  alignment_ = static_cast<uint64_t>(alignment);
  if (alignment_ == 0 || (alignment_ & (alignment_ - 1)) != 0 || alignment_ > kAlignmentMax) {
    return Fail(StrCat("general.alignment = ", alignment, "; allowed are powers of two up to ",
                       kAlignmentMax),
                value->key);
  }
  return {};
}

// Turns offsets into places in the file: aligned, inside it, and without overlap.
Status GgufParser::PlaceTensors() {
  const Checked data = Checked(position_).RoundUp(alignment_);
  std::vector<const TensorInfo*> by_offset;
  for (TensorInfo& tensor : out_.tensors_) {
    if (tensor.offset % alignment_ != 0) {
      return Fail(StrCat("tensor ", tensor.name, " lies at offset ", tensor.offset,
                         ", no multiple of the alignment ", alignment_),
                  tensor.name);
    }
    const Checked begin = data + tensor.offset;
    const Checked end = begin + static_cast<uint64_t>(tensor.rows * tensor.row_bytes);
    if (!end.AtMost(out_.file_.size())) {
      return Fail(StrCat("tensor ", tensor.name, " reaches beyond the file's ", out_.file_.size(),
                         " bytes; the file is truncated or corrupt"),
                  tensor.name);
    }
    tensor.offset = *begin.Get();
    by_offset.push_back(&tensor);
  }
  std::sort(by_offset.begin(), by_offset.end(),
            [](const TensorInfo* a, const TensorInfo* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < by_offset.size(); ++i) {
    const TensorInfo& before = *by_offset[i - 1];
    if (before.offset + static_cast<uint64_t>(before.rows * before.row_bytes) >
        by_offset[i]->offset) {
      return Fail(StrCat("tensors ", before.name, " and ", by_offset[i]->name, " overlap"),
                  by_offset[i]->name);
    }
  }
  return {};
}

Status GgufParser::Run() {
  if (out_.file_.size() == 0) return Fail("the file is empty", "magic");
  RETURN_IF_ERROR(ReserveMemory());
  ASSIGN_OR_RETURN(const std::string_view magic, Take(4, "magic"));
  if (magic != "GGUF") return Fail("no GGUF file: it does not begin with \"GGUF\"", "magic");
  ASSIGN_OR_RETURN(out_.version_, TakeNumber<uint32_t>("version"));
  if (out_.version_ != 2 && out_.version_ != 3) {
    const bool swapped = (out_.version_ & 0xffff) == 0 && out_.version_ != 0;
    return Fail(StrCat("GGUF version ", out_.version_, swapped ? " (a big-endian file)" : "",
                       "; this build reads little-endian versions 2 and 3"),
                "version");
  }
  ASSIGN_OR_RETURN(const uint64_t tensors, TakeNumber<uint64_t>("tensor count"));
  ASSIGN_OR_RETURN(const uint64_t values, TakeNumber<uint64_t>("metadata count"));
  if (tensors > kGgufTensorsMax) {
    return Fail(StrCat(tensors, " tensors, the limit is ", kGgufTensorsMax), "tensor count");
  }
  if (values > kGgufValuesMax) {
    return Fail(StrCat(values, " metadata values, the limit is ", kGgufValuesMax),
                "metadata count");
  }
  for (uint64_t i = 0; i < values; ++i) RETURN_IF_ERROR(ParseValue());
  for (uint64_t i = 0; i < tensors; ++i) RETURN_IF_ERROR(ParseTensor());
  RETURN_IF_ERROR(ParseAlignment());
  out_.header_bytes_ = position_;
  return PlaceTensors();
}

Result<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(File file, File::Open(path));
  std::unique_ptr<GgufFile> gguf(new GgufFile(std::move(file)));
  RETURN_IF_ERROR(GgufParser(*gguf).Run());
  return gguf;
}

}  // namespace echelon
