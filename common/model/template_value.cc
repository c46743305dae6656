#include "common/model/template_value.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/check.h"
#include "common/model/float_repr.h"
#include "common/strings.h"

namespace echelon::chat {

namespace {

void AppendQuoted(const MarkedText& in, MarkedText& out) {
  constexpr char kHex[] = "0123456789abcdef";
  const auto add = [&](std::string_view text, size_t from) {
    out.Append(in.Trusted(from, from + 1) ? MarkedText{std::string(text), ""}
                                          : MarkedText::Untrusted(std::string(text)));
  };
  out.AppendTrusted("\"");
  size_t plain = 0;  // in[plain, i) needs no escape
  for (size_t i = 0; i <= in.text.size(); ++i) {
    const char c = i < in.text.size() ? in.text[i] : '"';
    if (c != '"' && c != '\\' && static_cast<uint8_t>(c) >= 0x20) continue;
    out.Append(in, plain, i - plain);
    plain = i + 1;
    if (i == in.text.size()) break;
    constexpr std::string_view kPlain = "\"\\\n\r\t\b\f";
    constexpr std::string_view kLetter = "\"\\nrtbf";
    const size_t short_form = kPlain.find(c);
    if (short_form != std::string_view::npos) {
      add(StrCat("\\", kLetter[short_form]), i);
    } else {
      add(StrCat("\\u00", kHex[c >> 4], kHex[c & 15]), i);
    }
  }
  out.AppendTrusted("\"");
}

// Python's repr, as far as it is the same for the values of templates.
void AppendRepr(const Value& value, MarkedText& out) {
  if (value.is_text()) {
    const bool double_quotes = value.text().text.find('\'') != std::string::npos &&
                               value.text().text.find('"') == std::string::npos;
    out.AppendTrusted(double_quotes ? "\"" : "'");
    out.Append(value.text());
    out.AppendTrusted(double_quotes ? "\"" : "'");
  } else if (value.Is(Value::Kind::kList)) {
    out.AppendTrusted("[");
    for (size_t i = 0; i < value.list().size(); ++i) {
      if (i > 0) out.AppendTrusted(", ");
      AppendRepr(value.list()[i], out);
    }
    out.AppendTrusted("]");
  } else if (value.Is(Value::Kind::kDict)) {
    out.AppendTrusted("{");
    bool first = true;
    for (const auto& [key, member] : value.dict()) {
      if (!first) out.AppendTrusted(", ");
      first = false;
      AppendRepr(key, out);
      out.AppendTrusted(": ");
      AppendRepr(member, out);
    }
    out.AppendTrusted("}");
  } else {
    out.Append(Print(value));
  }
}

void AppendLineBreak(int indent, int depth, MarkedText& out) {
  if (indent < 0) return;
  out.AppendTrusted("\n");
  out.AppendTrusted(std::string(size_t(indent) * size_t(depth), ' '));
}

}  // namespace

Value::Value(uint64_t value) {
  if (value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    value_ = static_cast<int64_t>(value);
  } else {
    value_ = value;
  }
}

Value::Value(List list) {
  for (const Value& element : list) depth_ = std::max(depth_, element.depth_);
  ++depth_;
  value_ = std::make_shared<const List>(std::move(list));
}

Value::Value(Dict dict) {
  for (const auto& [key, member] : dict) depth_ = std::max(depth_, member.depth_);
  ++depth_;
  value_ = std::make_shared<const Dict>(std::move(dict));
}

Value Value::Namespace(Dict dict) {
  Value value;
  value.value_ = std::make_shared<Dict>(std::move(dict));
  value.depth_ = kValueDepthMax;
  return value;
}

const Value::Dict& Value::dict() const {
  if (Is(Kind::kNamespace)) return fields();
  return *std::get<std::shared_ptr<const Dict>>(value_);
}

int64_t Value::as_int() const {
  if (Is(Kind::kBool)) return std::get<bool>(value_) ? 1 : 0;
  return std::get<int64_t>(value_);
}

uint64_t Value::as_uint() const { return std::get<uint64_t>(value_); }

double Value::as_double() const {
  if (Is(Kind::kDouble)) return std::get<double>(value_);
  if (Is(Kind::kUint)) return static_cast<double>(as_uint());
  return static_cast<double>(as_int());
}

bool Value::Truthy() const {
  switch (kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return as_int() != 0;
    case Kind::kUint:
      return true;
    case Kind::kDouble:
      return as_double() != 0;
    case Kind::kText:
      return !text().text.empty();
    case Kind::kList:
      return !list().empty();
    case Kind::kDict:
      return !dict().empty();
    case Kind::kNamespace:
    case Kind::kMacro:
    case Kind::kFunction:
      return true;
  }
  return false;
}

const Value* Value::Find(std::string_view key) const {
  for (const auto& [name, member] : dict()) {
    if (name.text == key) return &member;
  }
  return nullptr;
}

const char* Value::KindName() const {
  constexpr const char* kNames[] = {"undefined", "None", "bool", "int",       "int",   "float",
                                    "str",       "list", "dict", "namespace", "macro", "function"};
  return kNames[static_cast<int>(kind())];
}

bool operator==(const Value& a, const Value& b) {
  using Kind = Value::Kind;
  if (a.is_number() && b.is_number()) {
    if (a.Is(Kind::kDouble) || b.Is(Kind::kDouble)) return a.as_double() == b.as_double();
    if (a.Is(Kind::kUint) || b.Is(Kind::kUint)) return a.value_ == b.value_;
    return a.as_int() == b.as_int();
  }
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kText:
      return a.text().text == b.text().text;
    case Kind::kList:
      return a.list() == b.list();
    case Kind::kDict: {
      if (a.dict().size() != b.dict().size()) return false;
      for (const auto& [key, member] : a.dict()) {
        const Value* other = b.Find(key.text);
        if (other == nullptr || !(member == *other)) return false;
      }
      return true;
    }
    case Kind::kNamespace:
      return &a.fields() == &b.fields();
    case Kind::kMacro:
      return a.macro() == b.macro();
    case Kind::kFunction:
      return a.function() == b.function();
    default:
      return true;  // undefined, none
  }
}

Value UntrustedValue(const Json& json) {
  switch (json.kind()) {
    case Json::Kind::kNull:
      return Value::None();
    case Json::Kind::kBool:
      return json.as_bool();
    case Json::Kind::kInt:
      return json.as_int();
    case Json::Kind::kUint:
      return json.as_uint();
    case Json::Kind::kDouble:
      return json.as_double();
    case Json::Kind::kString:
      return MarkedText::Untrusted(json.as_string());
    case Json::Kind::kArray: {
      Value::List list;
      for (const Json& element : json.as_array()) list.push_back(UntrustedValue(element));
      return list;
    }
    case Json::Kind::kObject: {
      Value::Dict dict;
      for (const auto& [key, member] : json.as_object()) {
        dict.emplace_back(MarkedText::Untrusted(key), UntrustedValue(member));
      }
      return dict;
    }
  }
  return {};
}

MarkedText Print(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kUndefined:
      return {};
    case Value::Kind::kNone:
      return {"None", ""};
    case Value::Kind::kBool:
      return {value.Truthy() ? "True" : "False", ""};
    case Value::Kind::kInt:
      return {StrCat(value.as_int()), ""};
    case Value::Kind::kUint:
      return {StrCat(value.as_uint()), ""};
    case Value::Kind::kDouble:
      return {FloatRepr(value.as_double()), ""};
    case Value::Kind::kText:
      return value.text();
    case Value::Kind::kList:
    case Value::Kind::kDict: {
      MarkedText out;
      AppendRepr(value, out);
      return out;
    }
    default:
      return {StrCat("<", value.KindName(), ">"), ""};
  }
}

bool AppendJson(const Value& value, int indent, int depth, MarkedText& out) {
  const std::string_view comma = indent >= 0 ? "," : ", ";
  switch (value.kind()) {
    case Value::Kind::kNone:
      out.AppendTrusted("null");
      return true;
    case Value::Kind::kBool:
      out.AppendTrusted(value.Truthy() ? "true" : "false");
      return true;
    case Value::Kind::kInt:
    case Value::Kind::kUint:
      out.Append(Print(value));
      return true;
    case Value::Kind::kDouble:
      out.AppendTrusted(FloatJson(value.as_double()));
      return true;
    case Value::Kind::kText:
      AppendQuoted(value.text(), out);
      return true;
    case Value::Kind::kList: {
      out.AppendTrusted("[");
      for (size_t i = 0; i < value.list().size(); ++i) {
        if (i > 0) out.AppendTrusted(comma);
        AppendLineBreak(indent, depth + 1, out);
        if (!AppendJson(value.list()[i], indent, depth + 1, out)) return false;
      }
      if (!value.list().empty()) AppendLineBreak(indent, depth, out);
      out.AppendTrusted("]");
      return true;
    }
    case Value::Kind::kDict: {
      out.AppendTrusted("{");
      bool first = true;
      for (const auto& [key, member] : value.dict()) {
        if (!first) out.AppendTrusted(comma);
        first = false;
        AppendLineBreak(indent, depth + 1, out);
        AppendQuoted(key, out);
        out.AppendTrusted(": ");
        if (!AppendJson(member, indent, depth + 1, out)) return false;
      }
      if (!first) AppendLineBreak(indent, depth, out);
      out.AppendTrusted("}");
      return true;
    }
    default:
      return false;
  }
}

}  // namespace echelon::chat
