// The operators of chat templates, with Python's meanings.

#include <algorithm>
#include <cmath>

#include "common/model/template_eval.h"
#include "common/strings.h"

namespace echelon::chat {

Value Evaluator::EvalUnary(const Expr& expr) {
  const Value operand = Eval(*expr.args[0]);
  if (failed()) return {};
  if (expr.name == "not") return !operand.Truthy();
  if (!operand.is_number()) {
    return Fail(expr.line, StrCat("operator ", expr.name, " on a ", operand.KindName()));
  }
  if (expr.name == "+") return operand;
  if (operand.Is(Value::Kind::kDouble)) return -operand.as_double();
  int64_t result = 0;
  if (operand.Is(Value::Kind::kUint) ||
      __builtin_sub_overflow(int64_t{0}, operand.as_int(), &result)) {
    return Fail(expr.line, "integer overflow");
  }
  return result;
}

Value Evaluator::EvalBinary(const Expr& expr) {
  const std::string& op = expr.name;
  Value left = Eval(*expr.args[0]);
  if (failed()) return {};
  if (op == "and") return left.Truthy() ? Eval(*expr.args[1]) : left;
  if (op == "or") return left.Truthy() ? left : Eval(*expr.args[1]);
  const Value right = Eval(*expr.args[1]);
  if (failed()) return {};
  if (op == "==") return left == right;
  if (op == "!=") return !(left == right);
  if (op == "in") return Contains(expr.line, right, left);
  if (op == "not in") {
    const bool found = Contains(expr.line, right, left).Truthy();
    return !found;
  }
  if (op == "+") return Add(expr.line, left, right);
  if (op == "~") {
    MarkedText text = Print(left);
    const MarkedText more = Print(right);
    if (!Spend(expr.line, text.text.size() + more.text.size())) return {};
    text.Append(more);
    return text;
  }
  if (op == "<" || op == ">" || op == "<=" || op == ">=") {
    return Compare(expr.line, op, left, right);
  }
  return Arithmetic(expr.line, op, left, right);
}

Value Evaluator::Add(int line, const Value& a, const Value& b) {
  if (a.is_text() && b.is_text()) {
    if (!Spend(line, a.text().text.size() + b.text().text.size())) return {};
    MarkedText text = a.text();
    text.Append(b.text());
    return text;
  }
  if (a.Is(Value::Kind::kList) && b.Is(Value::Kind::kList)) {
    if (!Spend(line, (a.list().size() + b.list().size()) * 64)) return {};
    Value::List list = a.list();
    list.insert(list.end(), b.list().begin(), b.list().end());
    return list;
  }
  return Arithmetic(line, "+", a, b);
}

Value Evaluator::Arithmetic(int line, const std::string& op, const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) {
    return Fail(line, StrCat("operator ", op, " on ", a.KindName(), " and ", b.KindName()));
  }
  if (op == "/" || a.Is(Value::Kind::kDouble) || b.Is(Value::Kind::kDouble)) {
    const double x = a.as_double();
    const double y = b.as_double();
    if (op == "+") return x + y;
    if (op == "-") return x - y;
    if (op == "*") return x * y;
    if (y == 0) return Fail(line, "division by zero");
    if (op == "/") return x / y;
    if (op == "//") return std::floor(x / y);
    if (op == "%") return x - std::floor(x / y) * y;
    return Fail(line, StrCat("operator ", op, " is not supported"));
  }
  if (a.Is(Value::Kind::kUint) || b.Is(Value::Kind::kUint)) return Fail(line, "integer overflow");
  const int64_t x = a.as_int();
  const int64_t y = b.as_int();
  int64_t result = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(x, y, &result);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(x, y, &result);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(x, y, &result);
  } else if (op != "//" && op != "%") {
    return Fail(line, StrCat("operator ", op, " is not supported"));
  } else if (y == 0) {
    return Fail(line, "division by zero");
  } else if (y == -1) {
    overflow = op == "//" && __builtin_sub_overflow(int64_t{0}, x, &result);
  } else {  // Python rounds down
    const int64_t rest = x % y;
    const bool down = rest != 0 && (rest < 0) != (y < 0);
    result = op == "%" ? rest + (down ? y : 0) : x / y - (down ? 1 : 0);
  }
  if (overflow) return Fail(line, "integer overflow");
  return result;
}

Value Evaluator::Compare(int line, const std::string& op, const Value& a, const Value& b) {
  int order = 0;
  if (a.is_text() && b.is_text()) {
    order = a.text().text.compare(b.text().text);
  } else if (a.is_number() && b.is_number()) {
    const double x = a.as_double();
    const double y = b.as_double();
    order = x < y ? -1 : x > y ? 1 : 0;
  } else {
    return Fail(line, StrCat("operator ", op, " on ", a.KindName(), " and ", b.KindName()));
  }
  if (op == "<") return order < 0;
  if (op == ">") return order > 0;
  return op == "<=" ? order <= 0 : order >= 0;
}

Value Evaluator::Contains(int line, const Value& container, const Value& item) {
  switch (container.kind()) {
    case Value::Kind::kText:
      if (!item.is_text()) {
        return Fail(line, StrCat("\"in\" of a ", item.KindName(), " and a str"));
      }
      // The library's search may look at every byte once per byte of what it looks for.
      if (!Spend(line, container.text().text.size() * (1 + item.text().text.size() / 64)))
        return {};
      return container.text().text.find(item.text().text) != std::string::npos;
    case Value::Kind::kList:
      if (!Spend(line, container.list().size() * 64)) return {};
      return std::find(container.list().begin(), container.list().end(), item) !=
             container.list().end();
    case Value::Kind::kDict:
      if (!Spend(line, container.dict().size() * 64)) return {};
      return item.is_text() && container.Find(item.text().text) != nullptr;
    case Value::Kind::kUndefined:
      return false;
    default:
      return Fail(line, StrCat("\"in\" of a ", container.KindName()));
  }
}

}  // namespace echelon::chat
