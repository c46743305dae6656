#include "common/model/template_eval.h"

#include <algorithm>
#include <cmath>

#include "common/strings.h"

namespace echelon::chat {

namespace {

// Expressions, statements and macros within each other; about 1 KB of stack each.
constexpr int kDepthMax = 600;
// A step pays for this many bytes of text: with 1,000,000 steps at most 256 MB are ever copied.
constexpr size_t kBytesPerStep = 256;
constexpr int64_t kRangeMax = 100'000;  // numbers of a range()

// A sequence's elements from `from` to `to` by `step`, as Python counts: negative from the end.
std::vector<int64_t> SliceIndices(int64_t size, std::optional<int64_t> from,
                                  std::optional<int64_t> to, int64_t step) {
  const int64_t low = step > 0 ? 0 : -1;
  const int64_t high = step > 0 ? size : size - 1;
  const auto clamp = [&](std::optional<int64_t> bound, int64_t fallback) {
    if (!bound) return fallback;
    return std::clamp(*bound < 0 ? *bound + size : *bound, low, high);
  };
  const int64_t begin = clamp(from, step > 0 ? low : high);
  const int64_t end = clamp(to, step > 0 ? high : low);
  std::vector<int64_t> indices;
  for (int64_t i = begin; step > 0 ? i < end : i > end;) {
    indices.push_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return indices;
}

// Where each character of a text begins, and the end.
std::vector<size_t> CharBegins(const std::string& text) {
  std::vector<size_t> begins;
  for (size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<uint8_t>(text[i]) & 0xC0) != 0x80) begins.push_back(i);
  }
  begins.push_back(text.size());
  return begins;
}

bool IsSequence(const Value& value) { return value.Is(Value::Kind::kList); }

}  // namespace

const Value* Arguments::Get(size_t index, std::string_view name) const {
  if (index < values.size()) return &values[index];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

Evaluator::Evaluator(const ChatTemplateLimits& limits, Value::Dict globals)
    : limits_(limits), steps_left_(limits.steps_max) {
  Scope& scope = scopes_.emplace_back();
  scope["raise_exception"] = Value(Value::Function::kRaise);
  scope["namespace"] = Value(Value::Function::kNamespace);
  scope["range"] = Value(Value::Function::kRange);
  scope["dict"] = Value(Value::Function::kDict);
  for (auto& [name, value] : globals) scope[name.text] = std::move(value);
}

Result<MarkedText> Evaluator::Run(const Block& block) {
  Exec(block);
  if (error_) return *error_;
  return std::move(out_);
}

Value Evaluator::Fail(int line, const std::string& what) {
  if (!error_) error_ = TemplateError(line, what);
  return {};
}

bool Evaluator::Spend(int line, size_t bytes) {
  if (failed()) return false;
  steps_left_ -= 1 + static_cast<int64_t>(bytes / kBytesPerStep);
  if (steps_left_ >= 0) return true;
  error_ = ResourceExhausted(StrCat("chat template, line ", line, ": more than ", limits_.steps_max,
                                    " steps; the template or the conversation is too large"));
  return false;
}

void Evaluator::Write(int line, const MarkedText& text) {
  if (!Spend(line, text.text.size())) return;
  if (out_.text.size() + text.text.size() > limits_.output_bytes_max) {
    error_ = ResourceExhausted(StrCat("chat template, line ", line, ": output of more than ",
                                      limits_.output_bytes_max, " bytes"));
    return;
  }
  out_.Append(text);
}

MarkedText Evaluator::Capture(const Block& block) {
  MarkedText outer = std::move(out_);
  out_ = {};
  Exec(block);
  std::swap(outer, out_);
  return outer;
}

Evaluator::Flow Evaluator::Exec(const Block& block) {
  if (++depth_ > kDepthMax) Fail(block.empty() ? 0 : block[0]->line, "nested too deep");
  Flow flow = Flow::kNext;
  for (const auto& stmt : block) {
    if (flow != Flow::kNext || !Spend(stmt->line, 0)) break;
    flow = ExecStatement(*stmt);
  }
  --depth_;
  return flow;
}

Evaluator::Flow Evaluator::ExecStatement(const Stmt& stmt) {
  switch (stmt.kind) {
    case Stmt::Kind::kText:
      Write(stmt.line, stmt.value.text());
      break;
    case Stmt::Kind::kOutput: {
      const Value value = Eval(*stmt.expr);
      if (value.Is(Value::Kind::kMacro) || value.Is(Value::Kind::kFunction)) {
        Fail(stmt.line, StrCat("printing a ", value.KindName(), " is not supported"));
      }
      if (!failed()) Write(stmt.line, Print(value));
      break;
    }
    case Stmt::Kind::kIf: {
      const bool yes = Eval(*stmt.expr).Truthy();
      return failed() ? Flow::kNext : Exec(yes ? stmt.body : stmt.otherwise);
    }
    case Stmt::Kind::kFor:
      return ExecFor(stmt);
    case Stmt::Kind::kSet:
    case Stmt::Kind::kSetField:
      ExecSet(stmt);
      break;
    case Stmt::Kind::kMacro:
      scopes_.back()[stmt.names[0]] = Value(&stmt);
      break;
    case Stmt::Kind::kBreak:
      return Flow::kBreak;
    case Stmt::Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

void Evaluator::ExecSet(const Stmt& stmt) {
  const Value value = stmt.expr != nullptr ? Eval(*stmt.expr) : Value(Capture(stmt.body));
  if (failed()) return;
  if (stmt.kind == Stmt::Kind::kSet) {
    Assign(stmt.line, stmt.names, value);
    return;
  }
  for (size_t i = scopes_.size(); i-- > 0;) {
    const auto it = scopes_[i].find(stmt.names[0]);
    if (it == scopes_[i].end()) continue;
    if (!it->second.Is(Value::Kind::kNamespace)) break;
    if (value.depth() >= kValueDepthMax) {
      Fail(stmt.line, "values nested too deep, or a namespace within a namespace");
      return;
    }
    Value::Dict& fields = it->second.fields();
    const auto field = std::find_if(fields.begin(), fields.end(),
                                    [&](const auto& f) { return f.first.text == stmt.names[1]; });
    if (field != fields.end()) {
      field->second = value;
    } else {
      fields.emplace_back(MarkedText{stmt.names[1], ""}, value);
    }
    return;
  }
  Fail(stmt.line, StrCat("\"", stmt.names[0], "\" is no namespace"));
}

// One name takes the value, several take a list apart.
bool Evaluator::Assign(int line, const std::vector<std::string>& names, const Value& value) {
  if (names.size() == 1) {
    scopes_.back()[names[0]] = value;
    return true;
  }
  if (!IsSequence(value) || value.list().size() != names.size()) {
    Fail(line, StrCat("a ", value.KindName(), " does not fall into ", names.size(), " names"));
    return false;
  }
  for (size_t i = 0; i < names.size(); ++i) scopes_.back()[names[i]] = value.list()[i];
  return true;
}

Evaluator::Flow Evaluator::ExecFor(const Stmt& stmt) {
  const Value sequence = Eval(*stmt.expr);
  const Value as_list = ApplyFilter(stmt.line, "list", sequence, {});
  if (failed()) return Flow::kNext;
  Value::List items = as_list.list();
  scopes_.emplace_back();
  if (stmt.condition != nullptr) {
    Value::List kept;
    for (const Value& item : items) {
      if (!Assign(stmt.line, stmt.names, item)) break;
      const bool yes = Eval(*stmt.condition).Truthy();
      if (failed()) break;
      if (yes) kept.push_back(item);
    }
    items = std::move(kept);
  }
  const int64_t count = static_cast<int64_t>(items.size());
  for (int64_t i = 0; i < count && Spend(stmt.line, 0); ++i) {
    scopes_.back().clear();
    if (!Assign(stmt.line, stmt.names, items[i])) break;
    const auto neighbour = [&](int64_t at) { return at >= 0 && at < count ? items[at] : Value(); };
    scopes_.back()["loop"] = Value::Dict{{{"index0", ""}, i},
                                         {{"index", ""}, i + 1},
                                         {{"revindex0", ""}, count - i - 1},
                                         {{"revindex", ""}, count - i},
                                         {{"first", ""}, i == 0},
                                         {{"last", ""}, i == count - 1},
                                         {{"length", ""}, count},
                                         {{"previtem", ""}, neighbour(i - 1)},
                                         {{"nextitem", ""}, neighbour(i + 1)}};
    if (Exec(stmt.body) == Flow::kBreak || failed()) break;
  }
  scopes_.pop_back();
  if (items.empty() && !failed()) return Exec(stmt.otherwise);
  return Flow::kNext;
}

Value Evaluator::Eval(const Expr& expr) {
  if (!Spend(expr.line, 0)) return {};
  if (++depth_ > kDepthMax) Fail(expr.line, "nested too deep");
  Value value = failed() ? Value() : EvalAs(expr);
  --depth_;
  if (value.depth() > kValueDepthMax) Fail(expr.line, "values nested too deep");
  return failed() ? Value() : value;
}

Value Evaluator::EvalAs(const Expr& expr) {
  switch (expr.kind) {
    case Expr::Kind::kLiteral:
      return expr.value;
    case Expr::Kind::kName:
      return EvalName(expr);
    case Expr::Kind::kList: {
      Value::List list;
      for (const ExprPtr& item : expr.args) list.push_back(Eval(*item));
      return list;
    }
    case Expr::Kind::kDict:
      return EvalDict(expr);
    case Expr::Kind::kAttribute: {
      const Value object = Eval(*expr.args[0]);
      return failed() ? Value() : Attribute(expr.line, object, expr.name);
    }
    case Expr::Kind::kIndex:
      return EvalIndex(expr);
    case Expr::Kind::kSlice:
      return EvalSlice(expr);
    case Expr::Kind::kCall:
      return EvalCall(expr);
    case Expr::Kind::kFilter: {
      const Value input = Eval(*expr.args[0]);
      const Arguments args = EvalArguments(expr);
      return failed() ? Value() : ApplyFilter(expr.line, expr.name, input, args);
    }
    case Expr::Kind::kTest: {
      const Value input = Eval(*expr.args[0]);
      const Arguments args = EvalArguments(expr);
      return !failed() && ApplyTest(expr.line, expr.name, input, args);
    }
    case Expr::Kind::kUnary:
      return EvalUnary(expr);
    case Expr::Kind::kBinary:
      return EvalBinary(expr);
    case Expr::Kind::kConditional: {
      const bool yes = Eval(*expr.args[1]).Truthy();
      if (failed()) return {};
      const ExprPtr& chosen = expr.args[yes ? 0 : 2];
      return chosen == nullptr ? Value() : Eval(*chosen);
    }
  }
  return {};
}

Arguments Evaluator::EvalArguments(const Expr& expr) {
  Arguments args;
  for (size_t i = 1; i < expr.args.size(); ++i) args.values.push_back(Eval(*expr.args[i]));
  for (const auto& [name, value] : expr.named) args.named.emplace_back(name, Eval(*value));
  return args;
}

Value Evaluator::EvalName(const Expr& expr) {
  for (size_t i = scopes_.size(); i-- > 0;) {
    const auto it = scopes_[i].find(expr.name);
    if (it != scopes_[i].end()) return it->second;
  }
  return {};
}

Value Evaluator::EvalDict(const Expr& expr) {
  Value::Dict dict;
  for (size_t i = 0; i < expr.args.size(); i += 2) {
    const Value key = Eval(*expr.args[i]);
    Value value = Eval(*expr.args[i + 1]);
    if (failed()) return {};
    if (!key.is_text()) return Fail(expr.line, "dictionary keys other than strings");
    dict.emplace_back(key.text(), std::move(value));
  }
  return dict;
}

Value Evaluator::Attribute(int line, const Value& object, const std::string& name) {
  if (object.is_undefined()) {
    return Fail(line, StrCat("\"", name, "\" of an undefined value"));
  }
  if (!object.Is(Value::Kind::kDict) && !object.Is(Value::Kind::kNamespace)) return {};
  if (!Spend(line, object.dict().size())) return {};
  const Value* found = object.Find(name);
  return found != nullptr ? *found : Value();
}

Value Evaluator::EvalIndex(const Expr& expr) {
  const Value object = Eval(*expr.args[0]);
  const Value index = Eval(*expr.args[1]);
  if (failed()) return {};
  if (index.is_text()) return Attribute(expr.line, object, index.text().text);
  if (object.is_undefined()) return Fail(expr.line, "index of an undefined value");
  if (!index.Is(Value::Kind::kInt)) {
    return Fail(expr.line, StrCat("an index of kind ", index.KindName()));
  }
  int64_t at = index.as_int();
  if (IsSequence(object)) {
    const int64_t size = static_cast<int64_t>(object.list().size());
    if (at < 0) at += size;
    return at >= 0 && at < size ? object.list()[at] : Value();
  }
  if (!object.is_text()) return {};
  if (!Spend(expr.line, object.text().text.size())) return {};
  const std::vector<size_t> begins = CharBegins(object.text().text);
  const int64_t size = static_cast<int64_t>(begins.size()) - 1;
  if (at < 0) at += size;
  if (at < 0 || at >= size) return {};
  return object.text().Sub({begins[at], begins[at + 1]});
}

Value Evaluator::EvalSlice(const Expr& expr) {
  const Value object = Eval(*expr.args[0]);
  std::optional<int64_t> bounds[3];
  for (int i = 0; i < 3; ++i) {
    if (expr.args[i + 1] == nullptr) continue;
    const Value bound = Eval(*expr.args[i + 1]);
    if (failed()) return {};
    if (bound.Is(Value::Kind::kNone)) continue;
    if (!bound.Is(Value::Kind::kInt)) {
      return Fail(expr.line, StrCat("a slice bound of kind ", bound.KindName()));
    }
    // No sequence is as long as 2^40: a bound beyond that means "to the end" and cannot overflow.
    bounds[i] = std::clamp<int64_t>(bound.as_int(), -(int64_t{1} << 40), int64_t{1} << 40);
  }
  if (failed()) return {};
  const int64_t step = bounds[2].value_or(1);
  if (step == 0) return Fail(expr.line, "slice step 0");
  if (IsSequence(object)) {
    if (!Spend(expr.line, object.list().size() * 64)) return {};
    Value::List out;
    for (int64_t i : SliceIndices(int64_t(object.list().size()), bounds[0], bounds[1], step)) {
      out.push_back(object.list()[i]);
    }
    return out;
  }
  if (!object.is_text()) return Fail(expr.line, StrCat("a slice of a ", object.KindName()));
  if (!Spend(expr.line, object.text().text.size() * 8)) return {};
  const std::vector<size_t> begins = CharBegins(object.text().text);
  MarkedText out;
  for (int64_t i : SliceIndices(int64_t(begins.size()) - 1, bounds[0], bounds[1], step)) {
    out.Append(object.text(), begins[i], begins[i + 1] - begins[i]);
  }
  return out;
}

Value Evaluator::EvalCall(const Expr& expr) {
  const Expr& callee = *expr.args[0];
  if (callee.kind == Expr::Kind::kAttribute) {
    const Value object = Eval(*callee.args[0]);
    if (failed()) return {};
    Value member;
    if (object.Is(Value::Kind::kNamespace)) member = Attribute(expr.line, object, callee.name);
    const Arguments args = EvalArguments(expr);
    if (failed()) return {};
    if (member.Is(Value::Kind::kMacro)) return CallMacro(expr, *member.macro(), args);
    return CallMethod(expr.line, callee.name, object, args);
  }
  const Value function = Eval(callee);
  const Arguments args = EvalArguments(expr);
  if (failed()) return {};
  if (function.Is(Value::Kind::kMacro)) return CallMacro(expr, *function.macro(), args);
  if (function.Is(Value::Kind::kFunction)) return CallFunction(expr, function.function(), args);
  return Fail(expr.line, StrCat("function \"", callee.name, "\" is not supported"));
}

Value Evaluator::CallFunction(const Expr& expr, Value::Function function, const Arguments& args) {
  switch (function) {
    case Value::Function::kRaise: {
      const std::string why = args.values.empty() ? "" : Print(args.values[0]).text;
      error_ =
          InvalidArgument(StrCat("the chat template refuses the conversation: ", why), "messages");
      return {};
    }
    case Value::Function::kNamespace:
    case Value::Function::kDict: {
      Value::Dict fields;
      if (!args.values.empty()) {
        if (!args.values[0].Is(Value::Kind::kDict)) {
          return Fail(expr.line, StrCat("a namespace or dict of a ", args.values[0].KindName()));
        }
        fields = args.values[0].dict();
      }
      for (const auto& [name, value] : args.named) {
        if (value.depth() >= kValueDepthMax) return Fail(expr.line, "values nested too deep");
        fields.emplace_back(MarkedText{name, ""}, value);
      }
      return function == Value::Function::kDict ? Value(std::move(fields))
                                                : Value::Namespace(std::move(fields));
    }
    case Value::Function::kRange: {
      int64_t numbers[3] = {0, 0, 1};
      const size_t count = args.values.size();
      for (size_t i = 0; i < std::min<size_t>(count, 3); ++i) {
        if (!args.values[i].Is(Value::Kind::kInt)) return Fail(expr.line, "range of no integers");
        numbers[count == 1 ? 1 : i] = args.values[i].as_int();
      }
      const auto [begin, end, step] = numbers;
      if (count < 1 || count > 3 || step == 0) return Fail(expr.line, "range arguments");
      Value::List list;
      for (int64_t i = begin; step > 0 ? i < end : i > end;) {
        if (static_cast<int64_t>(list.size()) >= kRangeMax || !Spend(expr.line, 0)) {
          return Fail(expr.line, StrCat("a range of more than ", kRangeMax));
        }
        list.emplace_back(i);
        if (__builtin_add_overflow(i, step, &i)) break;
      }
      return list;
    }
  }
  return {};
}

Value Evaluator::CallMacro(const Expr& expr, const Stmt& macro, const Arguments& args) {
  const size_t parameters = macro.defaults.size();
  if (args.values.size() > parameters) {
    return Fail(expr.line,
                StrCat("macro \"", macro.names[0], "\" takes ", parameters, " arguments"));
  }
  Scope scope;
  for (size_t i = 0; i < parameters; ++i) {
    const Value* given = args.Get(i, macro.names[i + 1]);
    scope[macro.names[i + 1]] = given != nullptr               ? *given
                                : macro.defaults[i] != nullptr ? Eval(*macro.defaults[i])
                                                               : Value();
  }
  // A macro sees the template's own names and its arguments, not those of the place it is called.
  std::vector<Scope> outside(std::make_move_iterator(scopes_.begin() + 1),
                             std::make_move_iterator(scopes_.end()));
  scopes_.resize(1);
  scopes_.push_back(std::move(scope));
  MarkedText text = Capture(macro.body);
  scopes_.pop_back();
  for (Scope& s : outside) scopes_.push_back(std::move(s));
  return text;
}

}  // namespace echelon::chat
