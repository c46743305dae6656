#include "common/json.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "common/strings.h"

namespace echelon {

namespace {

// A key for a message of one line: cut, and without what could break the line.
std::string Quoted(std::string_view key) {
  std::string out = "\"";
  for (const char c : key.substr(0, 64)) out.push_back(c >= ' ' && c <= '~' ? c : '?');
  return out + "\"";
}

// Builds a Json from nlohmann's SAX events, refusing what Json::Parse promises to refuse.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Builder(std::string name, JsonLimits limits) : name_(std::move(name)), limits_(limits) {}

  bool null() override { return Add(Json()); }
  bool boolean(bool value) override { return Add(Json(value)); }
  bool number_integer(number_integer_t value) override { return Add(Json(int64_t{value})); }
  bool number_unsigned(number_unsigned_t value) override { return Add(Json(uint64_t{value})); }
  bool number_float(number_float_t value, const string_t& text) override {
    if (!std::isfinite(value)) return Fail("number out of range: " + text.substr(0, 32));
    return Add(Json(value));
  }
  bool string(string_t& value) override { return Add(Json(std::move(value))); }
  bool binary(binary_t&) override { return Fail("binary value"); }
  bool start_object(size_t) override { return Open(Json::MakeObject()); }
  bool start_array(size_t) override { return Open(Json::MakeArray()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& value) override {
    if (!keys_.back().insert(value).second) {
      return Fail(StrCat("duplicate key ", Quoted(value)));
    }
    pending_key_.back() = std::move(value);
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    // The innermost member that was being read, to name the field.
    for (auto key = pending_key_.rbegin(); key != pending_key_.rend(); ++key) {
      if (key->empty()) continue;
      return Fail(StrCat("not valid JSON, or a number out of range, at byte ", position, ", in ",
                         Quoted(*key)));
    }
    return Fail(StrCat("not valid JSON at byte ", position));
  }

  Json Take() { return std::move(root_); }
  const std::string& failure() const { return failure_; }

 private:
  bool Fail(std::string message) {
    if (failure_.empty()) failure_ = StrCat(name_, ": ", message);
    return false;
  }
  bool CountOne() {
    if (++values_ <= limits_.values_max) return true;
    return Fail(StrCat("more than ", limits_.values_max, " values"));
  }
  bool Add(Json value) {
    if (!value.is_array() && !value.is_object() && !CountOne()) return false;
    if (stack_.empty()) {
      root_ = std::move(value);
    } else if (stack_.back().is_array()) {
      stack_.back().as_array().push_back(std::move(value));
    } else {
      stack_.back().as_object().emplace_back(std::move(pending_key_.back()), std::move(value));
    }
    return true;
  }
  bool Open(Json container) {
    if (static_cast<int>(stack_.size()) >= limits_.depth_max) {
      return Fail(StrCat("nested deeper than ", limits_.depth_max));
    }
    if (!CountOne()) return false;
    stack_.push_back(std::move(container));
    keys_.emplace_back();
    pending_key_.emplace_back();
    return true;
  }
  bool Close() {
    Json done = std::move(stack_.back());
    stack_.pop_back();
    keys_.pop_back();
    pending_key_.pop_back();
    return Add(std::move(done));
  }

  std::string name_;
  JsonLimits limits_;
  size_t values_ = 0;
  Json root_;
  std::vector<Json> stack_;
  std::vector<std::unordered_set<std::string>> keys_;
  std::vector<std::string> pending_key_;
  std::string failure_;
};

void DumpString(const std::string& text, std::string& out) {
  static constexpr char kHex[] = "0123456789abcdef";
  out.push_back('"');
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (byte < 0x20) {
          out += "\\u00";
          out.push_back(kHex[byte >> 4]);
          out.push_back(kHex[byte & 15]);
        } else {
          out.push_back(c);
        }
    }
  }
  out.push_back('"');
}

template <typename T>
void DumpNumber(T value, std::string& out) {
  char buffer[40];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, value);
  CHECK(error == std::errc());
  out.append(buffer, end);
}

void DumpTo(const Json& json, std::string& out) {
  switch (json.kind()) {
    case Json::Kind::kNull:
      out += "null";
      break;
    case Json::Kind::kBool:
      out += json.as_bool() ? "true" : "false";
      break;
    case Json::Kind::kInt:
      DumpNumber(json.as_int(), out);
      break;
    case Json::Kind::kUint:
      DumpNumber(json.as_uint(), out);
      break;
    case Json::Kind::kDouble:
      if (std::isfinite(json.as_double())) {
        DumpNumber(json.as_double(), out);
      } else {
        out += "null";
      }
      break;
    case Json::Kind::kString:
      DumpString(json.as_string(), out);
      break;
    case Json::Kind::kArray: {
      out.push_back('[');
      bool first = true;
      for (const Json& item : json.as_array()) {
        if (!first) out.push_back(',');
        first = false;
        DumpTo(item, out);
      }
      out.push_back(']');
      break;
    }
    case Json::Kind::kObject: {
      out.push_back('{');
      bool first = true;
      for (const auto& [key, value] : json.as_object()) {
        if (!first) out.push_back(',');
        first = false;
        DumpString(key, out);
        out.push_back(':');
        DumpTo(value, out);
      }
      out.push_back('}');
      break;
    }
  }
}

}  // namespace

Json::Json(uint64_t value) {
  if (value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    value_ = static_cast<int64_t>(value);
  } else {
    value_ = value;
  }
}

Result<Json> Json::Parse(std::string_view text, std::string_view name, JsonLimits limits) {
  if (text.size() > limits.bytes_max) {
    return Corrupt(
        StrCat(name, ": ", text.size(), " bytes of JSON, the limit is ", limits.bytes_max));
  }
  Builder builder{std::string(name), limits};
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) {
    return Corrupt(builder.failure());
  }
  return builder.Take();
}

std::string Json::Dump() const {
  std::string out;
  DumpTo(*this, out);
  return out;
}

const char* Json::KindName() const {
  static constexpr const char* kNames[] = {"null",   "bool",   "integer", "integer",
                                           "number", "string", "array",   "object"};
  return kNames[value_.index()];
}

bool Json::as_bool() const {
  CHECK(is_bool());
  return std::get<bool>(value_);
}
int64_t Json::as_int() const {
  CHECK(is_int());
  return std::get<int64_t>(value_);
}
uint64_t Json::as_uint() const {
  if (is_int() && as_int() >= 0) return static_cast<uint64_t>(as_int());
  CHECK(kind() == Kind::kUint);
  return std::get<uint64_t>(value_);
}
double Json::as_double() const {
  if (is_int()) return static_cast<double>(std::get<int64_t>(value_));
  if (kind() == Kind::kUint) return static_cast<double>(std::get<uint64_t>(value_));
  CHECK(kind() == Kind::kDouble);
  return std::get<double>(value_);
}
const std::string& Json::as_string() const {
  CHECK(is_string());
  return std::get<std::string>(value_);
}
const Json::Array& Json::as_array() const {
  CHECK(is_array());
  return std::get<Array>(value_);
}
Json::Array& Json::as_array() {
  CHECK(is_array());
  return std::get<Array>(value_);
}
const Json::Object& Json::as_object() const {
  CHECK(is_object());
  return std::get<Object>(value_);
}
Json::Object& Json::as_object() {
  CHECK(is_object());
  return std::get<Object>(value_);
}

const Json* Json::Find(std::string_view key) const {
  if (!is_object()) return nullptr;
  for (const auto& [name, value] : as_object()) {
    if (name == key) return &value;
  }
  return nullptr;
}

Json& Json::Set(std::string key, Json value) {
  for (auto& [name, old] : as_object()) {
    if (name == key) return old = std::move(value);
  }
  as_object().emplace_back(std::move(key), std::move(value));
  return as_object().back().second;
}

}  // namespace echelon
