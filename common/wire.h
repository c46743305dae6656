#pragma once
// WireWriter and WireReader: little-endian, length-checked encoding of our own frames. A reader
// never reads past its bytes: after the first bad read it is not ok() and yields zeros.

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace echelon {

class WireWriter {
 public:
  template <typename T>
  requires std::is_arithmetic_v<T>
  void Put(T value) {
    char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    out_.append(bytes, sizeof(T));
  }
  void PutString(std::string_view text) {
    Put(static_cast<uint32_t>(text.size()));
    out_.append(text);
  }
  template <typename T>
  void PutVector(const std::vector<T>& values) {
    Put(static_cast<uint32_t>(values.size()));
    for (const T& value : values) Put(value);
  }
  std::string Take() { return std::move(out_); }

 private:
  std::string out_;
};

class WireReader {
 public:
  explicit WireReader(std::string_view bytes) : bytes_(bytes) {}

  template <typename T>
  requires std::is_arithmetic_v<T> T Get() {
    T value{};
    if (!ok_ || bytes_.size() < sizeof(T)) {
      ok_ = false;
      return value;
    }
    if constexpr (std::is_same_v<T, bool>) {
      if (bytes_[0] != 0 && bytes_[0] != 1) ok_ = false;
      value = bytes_[0] == 1;
    } else {
      std::memcpy(&value, bytes_.data(), sizeof(T));
    }
    bytes_.remove_prefix(sizeof(T));
    return value;
  }
  // A count of items that take at least `item_bytes` each: never more than the bytes that are left.
  uint32_t GetCount(uint32_t limit, size_t item_bytes) {
    const auto count = Get<uint32_t>();
    if (count > limit || uint64_t{count} * item_bytes > bytes_.size()) {
      ok_ = false;
      return 0;
    }
    return count;
  }
  std::string GetString(uint32_t limit) {
    const uint32_t size = GetCount(limit, 1);
    std::string text(bytes_.substr(0, size));
    bytes_.remove_prefix(size);
    return text;
  }
  template <typename T>
  std::vector<T> GetVector(uint32_t limit) {
    std::vector<T> values(GetCount(limit, sizeof(T)));
    for (T& value : values) value = Get<T>();
    return values;
  }
  bool ok() const { return ok_; }
  bool AtEnd() const { return ok_ && bytes_.empty(); }

 private:
  std::string_view bytes_;
  bool ok_ = true;
};

}  // namespace echelon
