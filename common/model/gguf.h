#pragma once
// GgufFile: the header of a GGUF file (version 2 or 3), parsed and checked: typed metadata and the
// places of the tensors. The file is untrusted: every size is checked before it is used, memory
// stays below the file's size + 64 MiB, time is linear in the header. Views point into memory that
// this object owns. Immutable after Open; safe to use from several threads at once.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/model/checkpoint.h"
#include "common/model/file.h"
#include "common/result.h"

namespace echelon {

enum class GgufType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64
};
const char* GgufTypeName(GgufType type);

struct GgufValue {
  std::string_view key;
  GgufType type = GgufType::kUint8;
  GgufType element = GgufType::kUint8;  // of an array; the same as `type` otherwise
  uint64_t count = 1;                   // elements of an array
  std::string_view bytes;               // as stored; the text itself where the type is kString
};

// Real files: 33 to 60 values, up to about 1,200 tensors (46,000 where experts are stored one by
// one). At 100 and 300 bytes of ours each these limits cost 6 and 20 MiB.
inline constexpr uint64_t kGgufValuesMax = 1 << 16;
inline constexpr uint64_t kGgufTensorsMax = 1 << 16;
// The largest vocabulary we know has 262,144 tokens and 514,906 merges; a view of 16 bytes for each
// of 2 Mi strings makes 32 MiB.
inline constexpr uint64_t kGgufStringsMax = 1 << 21;

class GgufFile {
 public:
  static Result<std::unique_ptr<GgufFile>> Open(const std::string& path);
  ~GgufFile();

  const std::string& path() const { return file_.path(); }
  uint32_t version() const { return version_; }
  const std::vector<GgufValue>& values() const { return values_; }
  // In the file's order; each lies wholly inside the file and overlaps no other. Tensors of more
  // than two dimensions count all but the first as rows.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  // Everything before the tensor data.
  std::string_view header() const { return {memory_, header_bytes_}; }
  const File& file() const { return file_; }
  File ReleaseFile() { return std::move(file_); }

  bool Has(std::string_view key) const { return Find(key) != nullptr; }
  const GgufValue* Find(std::string_view key) const;  // null where there is none
  // These are errors, naming file and key, where the key is missing or of another kind. Integers
  // of any width count as integers, and integers and floats as numbers.
  Result<int64_t> Integer(std::string_view key) const;
  Result<double> Number(std::string_view key) const;
  Result<bool> Bool(std::string_view key) const;
  Result<std::string_view> String(std::string_view key) const;
  Result<std::vector<std::string_view>> Strings(std::string_view key) const;
  Result<std::vector<int64_t>> Integers(std::string_view key) const;
  Result<std::vector<float>> Floats(std::string_view key) const;

 private:
  friend class GgufParser;
  explicit GgufFile(File file) : file_(std::move(file)) {}
  Result<const GgufValue*> Need(std::string_view key) const;

  File file_;
  // Address space for the whole file, of which only what the parser read is filled: views stay
  // valid while the header grows, and nothing is copied.
  char* memory_ = nullptr;
  uint64_t reserved_bytes_ = 0;
  uint64_t header_bytes_ = 0;
  uint32_t version_ = 0;
  std::vector<GgufValue> values_;
  std::vector<TensorInfo> tensors_;
};

}  // namespace echelon
