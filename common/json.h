#pragma once
// Json: a JSON value with the checks that untrusted text needs. Parsing refuses duplicate keys,
// nesting deeper than the limit, invalid UTF-8, trailing text and numbers that are not finite.
// Plain value type: copy, move, no sharing. Safe to use from any thread that owns it.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "common/result.h"

namespace echelon {

struct JsonLimits {
  size_t bytes_max = size_t{64} << 20;
  int depth_max = 64;
  // Values of every kind, containers too. Two bytes of hostile text ("1,") can become a value of
  // about 40 bytes, with its member's key about 250: where memory must stay bounded, set this.
  size_t values_max = SIZE_MAX;
};

class Json {
 public:
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;  // in the order of the text
  enum class Kind { kNull, kBool, kInt, kUint, kDouble, kString, kArray, kObject };

  Json() = default;
  Json(std::nullptr_t) {}                                       // NOLINT
  Json(bool value) : value_(value) {}                           // NOLINT
  Json(int value) : value_(int64_t{value}) {}                   // NOLINT
  Json(int64_t value) : value_(value) {}                        // NOLINT
  Json(uint64_t value);                                         // NOLINT: kInt where it fits
  Json(double value) : value_(value) {}                         // NOLINT
  Json(const char* value) : value_(std::string(value)) {}       // NOLINT
  Json(std::string value) : value_(std::move(value)) {}         // NOLINT
  Json(std::string_view value) : value_(std::string(value)) {}  // NOLINT
  Json(Array value) : value_(std::move(value)) {}               // NOLINT
  Json(Object value) : value_(std::move(value)) {}              // NOLINT

  static Json MakeObject() { return Json(Object{}); }
  static Json MakeArray() { return Json(Array{}); }

  // `name` stands in the errors: a file name, or "request".
  static Result<Json> Parse(std::string_view text, std::string_view name, JsonLimits limits = {});
  // Compact, keys in their order. Doubles print so that they read back the same; a double that is
  // not finite prints as null.
  std::string Dump() const;

  Kind kind() const { return static_cast<Kind>(value_.index()); }
  const char* KindName() const;
  bool is_null() const { return kind() == Kind::kNull; }
  bool is_bool() const { return kind() == Kind::kBool; }
  bool is_int() const { return kind() == Kind::kInt; }  // fits int64_t
  bool is_number() const { return is_int() || kind() == Kind::kUint || kind() == Kind::kDouble; }
  bool is_string() const { return kind() == Kind::kString; }
  bool is_array() const { return kind() == Kind::kArray; }
  bool is_object() const { return kind() == Kind::kObject; }

  // Each of these CHECKs the kind: ask first.
  bool as_bool() const;
  int64_t as_int() const;
  uint64_t as_uint() const;  // any integer that is not negative
  double as_double() const;  // any number
  const std::string& as_string() const;
  const Array& as_array() const;
  Array& as_array();
  const Object& as_object() const;
  Object& as_object();

  // The member, or null where there is none (or this is no object).
  const Json* Find(std::string_view key) const;
  // Adds or replaces a member of an object.
  Json& Set(std::string key, Json value);
  void Append(Json value) { as_array().push_back(std::move(value)); }

 private:
  std::variant<std::nullptr_t, bool, int64_t, uint64_t, double, std::string, Array, Object> value_;
};

}  // namespace echelon
