#pragma once
// JsonFields: typed access to the members of an untrusted JSON object; every error names the file,
// the member with its path, and what is allowed. null counts as absent. Refers to the Json given.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/json.h"
#include "common/result.h"

namespace echelon {

class JsonFields {
 public:
  // `path`: where the object stands inside the file, "" or "text_config."
  JsonFields(const Json& object, std::string file, std::string path)
      : object_(&object), file_(std::move(file)), path_(std::move(path)) {}

  bool Has(std::string_view key) const;     // stated and not null
  bool IsNull(std::string_view key) const;  // stated as null
  bool IsList(std::string_view key) const;
  // Absent, null, false or zero.
  bool IsUnset(std::string_view key) const;

  Result<int> Int(std::string_view key, int64_t least, int64_t most) const;
  // Where the key is absent: `otherwise`, or, if that is 0 and not allowed, an error.
  Result<int> IntOr(std::string_view key, int otherwise, int64_t least, int64_t most) const;
  Result<double> Positive(std::string_view key) const;  // and finite
  Result<double> PositiveOr(std::string_view key, double otherwise) const;
  Result<bool> BoolOr(std::string_view key, bool otherwise) const;
  Result<std::string> Text(std::string_view key) const;
  Result<std::vector<std::string>> Texts(std::string_view key) const;
  Result<std::vector<int64_t>> Integers(std::string_view key) const;
  Result<JsonFields> Object(std::string_view key) const;

  // "<file>: <path><key> <message>": the file is wrong / is right but beyond this build.
  Error Fail(std::string_view key, std::string_view message) const;
  Error Refuse(std::string_view key, std::string_view message) const;

 private:
  Result<const Json*> Need(std::string_view key) const;
  Error WrongKind(std::string_view key, const Json& value, std::string_view wanted) const;

  const Json* object_;
  std::string file_;
  std::string path_;
};

}  // namespace echelon
