#include "common/model/json_fields.h"

#include <cmath>

#include "common/strings.h"

namespace echelon {

bool JsonFields::Has(std::string_view key) const {
  const Json* value = object_->Find(key);
  return value != nullptr && !value->is_null();
}

bool JsonFields::IsNull(std::string_view key) const {
  const Json* value = object_->Find(key);
  return value != nullptr && value->is_null();
}

bool JsonFields::IsList(std::string_view key) const {
  const Json* value = object_->Find(key);
  return value != nullptr && value->is_array();
}

bool JsonFields::IsUnset(std::string_view key) const {
  const Json* value = object_->Find(key);
  return value == nullptr || value->is_null() || (value->is_bool() && !value->as_bool()) ||
         (value->is_number() && value->as_double() == 0.0);
}

Error JsonFields::Fail(std::string_view key, std::string_view message) const {
  const std::string field = StrCat(path_, key);
  return Corrupt(StrCat(file_, ": ", field, " ", message), field);
}

Error JsonFields::Refuse(std::string_view key, std::string_view message) const {
  Error error = Fail(key, message);
  error.code = ErrorCode::kUnsupported;
  return error;
}

Error JsonFields::WrongKind(std::string_view key, const Json& value,
                            std::string_view wanted) const {
  return Fail(key, StrCat("is of kind ", value.KindName(), "; it must be ", wanted));
}

Result<const Json*> JsonFields::Need(std::string_view key) const {
  const Json* value = object_->Find(key);
  if (value == nullptr || value->is_null()) return Fail(key, "is missing");
  return value;
}

Result<int> JsonFields::Int(std::string_view key, int64_t least, int64_t most) const {
  ASSIGN_OR_RETURN(const Json* value, Need(key));
  if (!value->is_int()) return WrongKind(key, *value, StrCat("an integer, ", least, " to ", most));
  if (value->as_int() < least || value->as_int() > most) {
    return Fail(key, StrCat("= ", value->as_int(), "; allowed are ", least, " to ", most));
  }
  return static_cast<int>(value->as_int());
}

Result<int> JsonFields::IntOr(std::string_view key, int otherwise, int64_t least,
                              int64_t most) const {
  if (!Has(key) && otherwise >= least) return otherwise;
  return Int(key, least, most);
}

Result<double> JsonFields::Positive(std::string_view key) const {
  ASSIGN_OR_RETURN(const Json* value, Need(key));
  if (!value->is_number()) return WrongKind(key, *value, "a number");
  const double number = value->as_double();
  // The numbers are used in float32: what vanishes or overflows there is refused here.
  if (number >= 1e-30 && number <= 1e30) return number;
  return Fail(key, StrCat("= ", number, "; it must be positive and finite"));
}

Result<double> JsonFields::PositiveOr(std::string_view key, double otherwise) const {
  if (!Has(key)) return otherwise;
  return Positive(key);
}

Result<bool> JsonFields::BoolOr(std::string_view key, bool otherwise) const {
  if (!Has(key)) return otherwise;
  ASSIGN_OR_RETURN(const Json* value, Need(key));
  if (!value->is_bool()) return WrongKind(key, *value, "true or false");
  return value->as_bool();
}

Result<std::string> JsonFields::Text(std::string_view key) const {
  ASSIGN_OR_RETURN(const Json* value, Need(key));
  if (!value->is_string()) return WrongKind(key, *value, "a text");
  const std::string& text = value->as_string();
  // Texts stand in messages, which are one line each.
  for (const char c : text) {
    if (text.size() > 256 || c < ' ' || c > '~') {
      return Fail(key, "is longer than 256 characters or has others than printable ASCII");
    }
  }
  return text;
}

Result<std::vector<std::string>> JsonFields::Texts(std::string_view key) const {
  ASSIGN_OR_RETURN(const Json* value, Need(key));
  if (!value->is_array()) return WrongKind(key, *value, "a list of texts");
  std::vector<std::string> out;
  for (const Json& item : value->as_array()) {
    if (!item.is_string()) return WrongKind(key, item, "a list of texts");
    out.push_back(item.as_string());
  }
  return out;
}

Result<std::vector<int64_t>> JsonFields::Integers(std::string_view key) const {
  ASSIGN_OR_RETURN(const Json* value, Need(key));
  if (!value->is_array()) return WrongKind(key, *value, "a list of integers");
  std::vector<int64_t> out;
  for (const Json& item : value->as_array()) {
    if (!item.is_int()) return WrongKind(key, item, "a list of integers");
    out.push_back(item.as_int());
  }
  return out;
}

Result<JsonFields> JsonFields::Object(std::string_view key) const {
  ASSIGN_OR_RETURN(const Json* value, Need(key));
  if (!value->is_object()) return WrongKind(key, *value, "an object");
  return JsonFields(*value, file_, StrCat(path_, key, "."));
}

}  // namespace echelon
