#pragma once
// Evaluator: runs a parsed chat template once. It can do nothing but compute a text, within limits
// of steps and bytes. The first error stops it. One per run, used by one thread.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/model/chat_template.h"
#include "common/model/template_ast.h"

namespace echelon::chat {

// Arguments of a call, filter or test, evaluated.
struct Arguments {
  std::vector<Value> values;
  std::vector<std::pair<std::string, Value>> named;
  // The argument at `index`, or of that name, or null.
  const Value* Get(size_t index, std::string_view name) const;
};

class Evaluator {
 public:
  Evaluator(const ChatTemplateLimits& limits, Value::Dict globals);
  Result<MarkedText> Run(const Block& block);

 private:
  enum class Flow { kNext, kBreak, kContinue };
  using Scope = std::map<std::string, Value, std::less<>>;

  // Records the first error; an undefined value.
  Value Fail(int line, const std::string& what);
  bool failed() const { return error_.has_value(); }
  // Pays for a step and for work on so many bytes: false once the limit is reached.
  bool Spend(int line, size_t bytes);

  Value Eval(const Expr& expr);
  Value EvalAs(const Expr& expr);
  Value EvalName(const Expr& expr);
  Value EvalDict(const Expr& expr);
  Value EvalIndex(const Expr& expr);
  Value EvalSlice(const Expr& expr);
  Value EvalUnary(const Expr& expr);
  Value EvalBinary(const Expr& expr);
  Value EvalCall(const Expr& expr);
  Value CallFunction(const Expr& expr, Value::Function function, const Arguments& args);
  Value CallMacro(const Expr& expr, const Stmt& macro, const Arguments& args);
  Value Arithmetic(int line, const std::string& op, const Value& a, const Value& b);
  Value Add(int line, const Value& a, const Value& b);
  Value Compare(int line, const std::string& op, const Value& a, const Value& b);
  Value Contains(int line, const Value& container, const Value& item);
  Arguments EvalArguments(const Expr& expr);
  Value ListOf(int line, const Value& input);
  Value FilterElements(int line, const std::string& name, const Value& input,
                       const Arguments& args);
  Value JoinList(int line, const Value& input, const Value* separator);
  Value ToJson(int line, const Value& input, const Arguments& args);
  Value ToNumber(int line, const std::string& name, const Value& input);
  Value ApplyFilter(int line, const std::string& name, const Value& input, const Arguments& args);
  bool ApplyTest(int line, const std::string& name, const Value& input, const Arguments& args);
  Value CallMethod(int line, const std::string& name, const Value& object, const Arguments& args);
  Value CallTextMethod(int line, const std::string& name, const MarkedText& text,
                       const Arguments& args);
  // object.name or object["name"]; undefined where there is none.
  Value Attribute(int line, const Value& object, const std::string& name);

  Flow Exec(const Block& block);
  Flow ExecStatement(const Stmt& stmt);
  Flow ExecFor(const Stmt& stmt);
  void ExecSet(const Stmt& stmt);
  bool Assign(int line, const std::vector<std::string>& names, const Value& value);
  void Write(int line, const MarkedText& text);
  MarkedText Capture(const Block& block);

  const ChatTemplateLimits limits_;
  std::optional<Error> error_;
  int64_t steps_left_;
  int depth_ = 0;
  std::vector<Scope> scopes_;
  MarkedText out_;
};

}  // namespace echelon::chat
