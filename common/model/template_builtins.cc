// The filters, tests and string methods of chat templates, with Jinja's and Python's meanings.

#include <algorithm>
#include <charconv>

#include "common/model/template_eval.h"
#include "common/model/template_text.h"
#include "common/strings.h"

namespace echelon::chat {

namespace {

using Kind = Value::Kind;

struct TestRow {
  std::string_view name;
  bool (*holds)(const Value& value);
};

bool IsOdd(const Value& integer) {
  return integer.Is(Kind::kUint) ? integer.as_uint() % 2 != 0 : integer.as_int() % 2 != 0;
}

constexpr TestRow kTests[] = {
    {"defined", [](const Value& v) { return !v.is_undefined(); }},
    {"undefined", [](const Value& v) { return v.is_undefined(); }},
    {"none", [](const Value& v) { return v.Is(Kind::kNone); }},
    {"string", [](const Value& v) { return v.is_text(); }},
    {"mapping", [](const Value& v) { return v.Is(Kind::kDict); }},
    {"sequence",
     [](const Value& v) { return v.is_text() || v.Is(Kind::kList) || v.Is(Kind::kDict); }},
    {"iterable",
     [](const Value& v) {
       return v.is_text() || v.Is(Kind::kList) || v.Is(Kind::kDict) || v.is_undefined();
     }},
    {"number", [](const Value& v) { return v.is_number(); }},
    {"integer", [](const Value& v) { return v.is_integer(); }},
    {"float", [](const Value& v) { return v.Is(Kind::kDouble); }},
    {"boolean", [](const Value& v) { return v.Is(Kind::kBool); }},
    {"true", [](const Value& v) { return v.Is(Kind::kBool) && v.Truthy(); }},
    {"false", [](const Value& v) { return v.Is(Kind::kBool) && !v.Truthy(); }},
    {"callable", [](const Value& v) { return v.Is(Kind::kMacro) || v.Is(Kind::kFunction); }},
    {"odd", [](const Value& v) { return v.is_integer() && IsOdd(v); }},
    {"even", [](const Value& v) { return v.is_integer() && !IsOdd(v); }},
};

struct CompareRow {
  std::string_view name;
  std::string_view op;
};
constexpr CompareRow kCompareTests[] = {
    {"equalto", "=="}, {"eq", "=="}, {"==", "=="}, {"sameas", "=="}, {"ne", "!="},
    {"lt", "<"},       {"le", "<="}, {"gt", ">"},  {"ge", ">="},     {"in", "in"}};

Value::List Keys(const Value::Dict& dict) {
  Value::List keys;
  for (const auto& [key, member] : dict) keys.emplace_back(key);
  return keys;
}

Value::List Items(const Value::Dict& dict) {
  Value::List items;
  for (const auto& [key, member] : dict) items.emplace_back(Value::List{Value(key), member});
  return items;
}

}  // namespace

bool Evaluator::ApplyTest(int line, const std::string& name, const Value& input,
                          const Arguments& args) {
  if (!Spend(line, 0)) return false;
  for (const TestRow& row : kTests) {
    if (row.name == name) return row.holds(input);
  }
  for (const CompareRow& row : kCompareTests) {
    if (row.name != name) continue;
    if (args.values.size() != 1) {
      Fail(line, StrCat("test \"", name, "\" takes one argument"));
      return false;
    }
    if (row.op == "==") return input == args.values[0];
    if (row.op == "!=") return !(input == args.values[0]);
    if (row.op == "in") return Contains(line, args.values[0], input).Truthy();
    return Compare(line, std::string(row.op), input, args.values[0]).Truthy();
  }
  Fail(line, StrCat("test \"is ", name, "\" is not supported"));
  return false;
}

// What a for loop runs over: characters, elements, keys.
Value Evaluator::ListOf(int line, const Value& input) {
  switch (input.kind()) {
    case Kind::kList:
      return Spend(line, input.list().size() * 64) ? input : Value();
    case Kind::kDict:
      return Spend(line, input.dict().size() * 64) ? Keys(input.dict()) : Value();
    case Kind::kUndefined:
      return Value::List{};
    case Kind::kText: {
      if (!Spend(line, input.text().text.size() * 64)) return {};
      Value::List characters;
      for (size_t i = 0; i < input.text().text.size();) {
        const size_t end = NextChar(input.text().text, i);
        characters.emplace_back(input.text().Sub({i, end}));
        i = end;
      }
      return characters;
    }
    default:
      return Fail(line, StrCat("a ", input.KindName(), " is not iterable"));
  }
}

// select, reject, selectattr, rejectattr, map.
Value Evaluator::FilterElements(int line, const std::string& name, const Value& input,
                                const Arguments& args) {
  const Value all = ListOf(line, input);
  if (failed()) return {};
  const bool by_attribute = name == "selectattr" || name == "rejectattr";
  const bool keep = name == "select" || name == "selectattr";
  const Value* attribute =
      by_attribute || name == "map" ? args.Get(name == "map" ? 99 : 0, "attribute") : nullptr;
  if (by_attribute && (attribute == nullptr || !attribute->is_text())) {
    return Fail(line, StrCat("filter \"", name, "\" needs the name of an attribute"));
  }
  size_t next = by_attribute ? 1 : 0;
  std::string function;
  if (next < args.values.size() && args.values[next].is_text()) {
    function = args.values[next++].text().text;
  }
  Arguments rest;
  rest.values.assign(args.values.begin() + std::min(next, args.values.size()), args.values.end());
  Value::List out;
  for (const Value& element : all.list()) {
    const Value subject = attribute != nullptr && attribute->is_text()
                              ? Attribute(line, element, attribute->text().text)
                              : element;
    if (failed()) return {};
    if (name == "map") {
      out.push_back(attribute != nullptr ? subject : ApplyFilter(line, function, subject, rest));
    } else {
      const bool holds =
          function.empty() ? subject.Truthy() : ApplyTest(line, function, subject, rest);
      if (holds == keep) out.push_back(element);
    }
  }
  return out;
}

Value Evaluator::JoinList(int line, const Value& input, const Value* separator) {
  const Value all = ListOf(line, input);
  if (failed()) return {};
  const MarkedText between = separator != nullptr ? Print(*separator) : MarkedText{};
  MarkedText out;
  for (size_t i = 0; i < all.list().size(); ++i) {
    const MarkedText next = Print(all.list()[i]);
    if (!Spend(line, next.text.size() + between.text.size())) return {};
    if (i > 0) out.Append(between);
    out.Append(next);
  }
  return out;
}

Value Evaluator::ToJson(int line, const Value& input, const Arguments& args) {
  const Value* indent = args.Get(0, "indent");
  int64_t width = -1;
  if (indent != nullptr && indent->Is(Kind::kInt)) width = indent->as_int();
  if (width > 16) return Fail(line, "tojson with an indent of more than 16");
  MarkedText out;
  if (!AppendJson(input, static_cast<int>(width), 0, out)) {
    return Fail(line, StrCat("tojson of a ", input.KindName()));
  }
  return Spend(line, out.text.size() * 4) ? Value(std::move(out)) : Value();
}

Value Evaluator::ToNumber(int line, const std::string& name, const Value& input) {
  if (input.is_number()) {
    if (name == "float") return input.as_double();
    if (input.Is(Kind::kUint)) return input;
    if (!input.Is(Kind::kDouble)) return input.as_int();
    const double value = input.as_double();
    if (!(value > -9e18 && value < 9e18)) return Fail(line, "int of a number out of range");
    return static_cast<int64_t>(value);
  }
  const std::string text = input.is_text() ? Strip(input.text(), nullptr, true, true).text : "";
  if (name == "int") {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size() ? value : int64_t{0};
  }
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? value : 0.0;
}

Value Evaluator::ApplyFilter(int line, const std::string& name, const Value& input,
                             const Arguments& args) {
  if (!Spend(line, 0)) return {};
  if (name == "default" || name == "d") {
    const Value* fallback = args.Get(0, "default_value");
    const Value* also_false = args.Get(1, "boolean");
    const bool use =
        input.is_undefined() || (also_false != nullptr && also_false->Truthy() && !input.Truthy());
    return !use ? input : fallback != nullptr ? *fallback : Value(std::string());
  }
  if (name == "tojson") return ToJson(line, input, args);
  if (name == "join") return JoinList(line, input, args.Get(0, "d"));
  if (name == "list") return ListOf(line, input);
  if (name == "int" || name == "float") return ToNumber(line, name, input);
  if (name == "safe") return input;
  if (name == "map" || name == "select" || name == "reject" || name == "selectattr" ||
      name == "rejectattr") {
    return FilterElements(line, name, input, args);
  }
  if (name == "length" || name == "count") {
    if (input.Is(Kind::kDict)) return static_cast<int64_t>(input.dict().size());
    if (input.Is(Kind::kList)) return static_cast<int64_t>(input.list().size());
    if (input.is_undefined()) return int64_t{0};
    if (!input.is_text()) return Fail(line, StrCat("length of a ", input.KindName()));
    return Spend(line, input.text().text.size()) ? CountChars(input.text().text) : Value();
  }
  if (name == "first" || name == "last" || name == "reverse") {
    const Value list = ListOf(line, input);
    if (failed()) return {};
    const Value::List& all = list.list();
    if (name == "reverse") return Value::List(all.rbegin(), all.rend());
    return all.empty() ? Value() : name == "first" ? all.front() : all.back();
  }
  if (name == "items" || name == "dictsort") {
    if (input.is_undefined() && name == "items") return Value::List{};
    if (!input.Is(Kind::kDict)) return Fail(line, StrCat(name, " of a ", input.KindName()));
    if (!Spend(line, input.dict().size() * 128)) return {};
    Value::Dict dict = input.dict();
    if (name == "dictsort") {
      std::stable_sort(dict.begin(), dict.end(),
                       [](const auto& a, const auto& b) { return a.first.text < b.first.text; });
    }
    return Items(dict);
  }
  if (name == "string") return input.is_text() ? input : Value(Print(input));
  if (name == "abs") {
    if (!input.is_number()) return Fail(line, StrCat("abs of a ", input.KindName()));
    return input.as_double() < 0 ? Arithmetic(line, "*", input, int64_t{-1}) : input;
  }
  if (name == "trim" || name == "upper" || name == "lower" || name == "title" ||
      name == "capitalize" || name == "replace") {
    const Value text = input.is_text() ? input : Value(Print(input));
    return CallMethod(line, name == "trim" ? "strip" : name, text, args);
  }
  if (name == "indent") {
    const Value* width = args.Get(0, "width");
    const Value* all_lines = args.Get(1, "first");
    const int64_t count = width != nullptr && width->Is(Kind::kInt) ? width->as_int() : 4;
    if (count < 0 || count > 64) return Fail(line, "indent of less than 0 or more than 64");
    const MarkedText text = Print(input);
    if (!Spend(line, text.text.size() * size_t(count + 1))) return {};
    return Indent(text, static_cast<int>(count), all_lines != nullptr && all_lines->Truthy());
  }
  return Fail(line, StrCat("filter \"", name, "\" is not supported"));
}

Value Evaluator::CallMethod(int line, const std::string& name, const Value& object,
                            const Arguments& args) {
  if (!Spend(line, object.is_text() ? object.text().text.size() : 0)) return {};
  if (object.Is(Kind::kDict) && args.named.empty()) {
    if (name == "items") return ApplyFilter(line, "items", object, {});
    if (name == "keys") return ListOf(line, object);
    if (name == "values") {
      Value::List values;
      for (const auto& [key, member] : object.dict()) values.push_back(member);
      return values;
    }
    if (name == "get" && !args.values.empty() && args.values[0].is_text()) {
      const Value* found = object.Find(args.values[0].text().text);
      if (found != nullptr) return *found;
      return args.values.size() > 1 ? args.values[1] : Value::None();
    }
  }
  if (object.is_text()) return CallTextMethod(line, name, object.text(), args);
  return Fail(line, StrCat("method \"", name, "\" of a ", object.KindName(), " is not supported"));
}

Value Evaluator::CallTextMethod(int line, const std::string& name, const MarkedText& text,
                                const Arguments& args) {
  const MarkedText* given[2] = {nullptr, nullptr};
  for (size_t i = 0; i < std::min<size_t>(args.values.size(), 2); ++i) {
    if (args.values[i].is_text()) given[i] = &args.values[i].text();
  }
  const Value* limit =
      args.Get(name == "replace" ? 2 : 1, name == "replace" ? "count" : "maxsplit");
  const int64_t count = limit != nullptr && limit->Is(Kind::kInt) ? limit->as_int() : -1;

  if (name == "strip") return Strip(text, given[0], true, true);
  if (name == "lstrip") return Strip(text, given[0], true, false);
  if (name == "rstrip") return Strip(text, given[0], false, true);
  if (name == "upper" || name == "lower" || name == "title" || name == "capitalize") {
    std::optional<MarkedText> changed = ChangeCase(text, name);
    if (!changed) return Fail(line, StrCat("\"", name, "\" of text beyond ASCII is not supported"));
    return std::move(*changed);
  }
  if (name == "startswith" || name == "endswith") {
    const Value::List one = given[0] != nullptr ? Value::List{args.values[0]}
                            : !args.values.empty() && args.values[0].Is(Kind::kList)
                                ? args.values[0].list()
                                : Value::List{};
    for (const Value& affix : one) {
      if (!affix.is_text()) return Fail(line, StrCat(name, " of a ", affix.KindName()));
      const std::string& a = affix.text().text;
      if (name == "startswith" ? text.text.starts_with(a) : text.text.ends_with(a)) return true;
    }
    if (one.empty()) return Fail(line, StrCat("arguments of \"", name, "\""));
    return false;
  }
  if (name == "split" || name == "rsplit") {
    if (given[0] != nullptr && given[0]->text.empty()) return Fail(line, "split at nothing");
    if (name == "rsplit" && count >= 0) return Fail(line, "rsplit with a limit is not supported");
    // A part costs as much as 64 bytes; there cannot be more than bytes + 1.
    if (!Spend(line, text.text.size() * 16)) return {};
    Value::List parts;
    for (MarkedText& part : SplitText(text, given[0], count)) parts.emplace_back(std::move(part));
    return parts;
  }
  if (name == "replace") {
    if (given[0] == nullptr || given[1] == nullptr) return Fail(line, "arguments of \"replace\"");
    if (given[0]->text.empty()) return Fail(line, "replace of nothing");
    // Each byte could become a whole replacement.
    const size_t found_max = text.text.size() / given[0]->text.size() + 1;
    if (given[1]->text.size() > 1 && !Spend(line, found_max * given[1]->text.size())) return {};
    return ReplaceText(text, given[0]->text, *given[1], count);
  }
  if (name == "join" && args.values.size() == 1) {
    const Value separator = text;
    return JoinList(line, args.values[0], &separator);
  }
  return Fail(line, StrCat("method \"", name, "\" of a str is not supported"));
}

}  // namespace echelon::chat
