#include <charconv>

#include "common/model/template_parser.h"

namespace echelon::chat {

Result<ExprPtr> Parser::ParseTuple() {
  ASSIGN_OR_RETURN(ExprPtr first, ParseExpression());
  if (!Peek().IsOperator(",")) return first;
  ExprPtr list = Make(Expr::Kind::kList);
  list->args.push_back(std::move(first));
  while (TakeOperator(",") && Peek().kind != Kind::kClose) {
    ASSIGN_OR_RETURN(ExprPtr next, ParseExpression());
    list->args.push_back(std::move(next));
  }
  return list;
}

Result<ExprPtr> Parser::ParseExpression() {
  const Level level(depth_);
  if (depth_ > kTemplateDepthMax) return TooDeep();
  ASSIGN_OR_RETURN(ExprPtr expr, ParseOr());
  while (Peek().IsName("if")) {
    ExprPtr conditional = Make(Expr::Kind::kConditional);
    Next();
    ASSIGN_OR_RETURN(ExprPtr condition, ParseOr());
    ExprPtr otherwise;
    if (TakeName("else")) {
      ASSIGN_OR_RETURN(otherwise, ParseExpression());
    }
    conditional->args.push_back(std::move(expr));
    conditional->args.push_back(std::move(condition));
    conditional->args.push_back(std::move(otherwise));
    RETURN_IF_ERROR(Deepen(*conditional));
    expr = std::move(conditional);
  }
  return expr;
}

Result<ExprPtr> Parser::Binary(std::string name, ExprPtr left, Result<ExprPtr> right) {
  if (!right.ok()) return right.error();
  ExprPtr expr = Make(Expr::Kind::kBinary, std::move(name));
  expr->line = left->line;
  expr->args.push_back(std::move(left));
  expr->args.push_back(std::move(right).value());
  RETURN_IF_ERROR(Deepen(*expr));
  return expr;
}

Result<ExprPtr> Parser::ParseOr() {
  ASSIGN_OR_RETURN(ExprPtr left, ParseAnd());
  while (TakeName("or")) {
    ASSIGN_OR_RETURN(left, Binary("or", std::move(left), ParseAnd()));
  }
  return left;
}

Result<ExprPtr> Parser::ParseAnd() {
  ASSIGN_OR_RETURN(ExprPtr left, ParseNot());
  while (TakeName("and")) {
    ASSIGN_OR_RETURN(left, Binary("and", std::move(left), ParseNot()));
  }
  return left;
}

Result<ExprPtr> Parser::ParseNot() {
  const Level level(depth_);
  if (depth_ > kTemplateDepthMax) return TooDeep();
  if (!Peek().IsName("not")) return ParseComparison();
  ExprPtr expr = Make(Expr::Kind::kUnary, "not");
  Next();
  ASSIGN_OR_RETURN(ExprPtr operand, ParseNot());
  expr->args.push_back(std::move(operand));
  return expr;
}

Result<ExprPtr> Parser::ParseComparison() {
  ASSIGN_OR_RETURN(ExprPtr left, ParseBinary(0));
  for (bool compared = false;; compared = true) {
    std::string name;
    for (std::string_view op : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (Peek().IsOperator(op)) name = op;
    }
    if (!name.empty()) {
      Next();
    } else if (TakeName("in")) {
      name = "in";
    } else if (Peek().IsName("not") && Peek(1).IsName("in")) {
      Next();
      Next();
      name = "not in";
    } else {
      return left;
    }
    if (compared) {
      return TemplateError(left->line, "chained comparisons are not supported");
    }
    ASSIGN_OR_RETURN(left, Binary(name, std::move(left), ParseBinary(0)));
  }
}

Result<ExprPtr> Parser::ParseBinary(int level) {
  static constexpr std::string_view kLevels[3][4] = {
      {"+", "-", "", ""}, {"~", "", "", ""}, {"*", "/", "//", "%"}};
  if (level == 3) return ParseUnary(true);
  ASSIGN_OR_RETURN(ExprPtr left, ParseBinary(level + 1));
  while (Peek().kind == Kind::kOperator) {
    const auto& row = kLevels[level];
    const std::string name = Peek().text;
    if (std::find(std::begin(row), std::end(row), name) == std::end(row)) break;
    Next();
    ASSIGN_OR_RETURN(left, Binary(name, std::move(left), ParseBinary(level + 1)));
  }
  return left;
}

Result<ExprPtr> Parser::ParseUnary(bool with_filters) {
  const Level level(depth_);
  if (depth_ > kTemplateDepthMax) return TooDeep();
  ExprPtr expr;
  if (Peek().IsOperator("-") || Peek().IsOperator("+")) {
    expr = Make(Expr::Kind::kUnary, Next().text);
    ASSIGN_OR_RETURN(ExprPtr operand, ParseUnary(false));
    expr->args.push_back(std::move(operand));
  } else {
    ASSIGN_OR_RETURN(expr, ParsePrimary());
  }
  ASSIGN_OR_RETURN(expr, ParsePostfix(std::move(expr)));
  if (with_filters) return ParseFilters(std::move(expr));
  return expr;
}

Result<ExprPtr> Parser::ParsePrimary() {
  const Token& token = Peek();
  ExprPtr expr = Make(Expr::Kind::kLiteral);
  if (token.kind == Kind::kString) {
    std::string text;
    while (Peek().kind == Kind::kString) text += Next().text;  // adjacent strings are one
    expr->value = Value(std::move(text));
  } else if (token.kind == Kind::kInt) {
    int64_t value = 0;
    const auto [end, error] =
        std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
    if (error != std::errc()) return TemplateError(token.line, "number out of range");
    expr->value = Value(value);
    Next();
  } else if (token.kind == Kind::kFloat) {
    double value = 0;
    std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
    expr->value = Value(value);
    Next();
  } else if (TakeOperator("(")) {
    if (TakeOperator(")")) {
      expr->kind = Expr::Kind::kList;
      return expr;
    }
    ASSIGN_OR_RETURN(ExprPtr first, ParseExpression());
    if (TakeOperator(")")) return first;
    expr->kind = Expr::Kind::kList;
    expr->args.push_back(std::move(first));
    RETURN_IF_ERROR(Expect(","));
    RETURN_IF_ERROR(ParseItems(")", false, *expr));
  } else if (TakeOperator("[")) {
    expr->kind = Expr::Kind::kList;
    RETURN_IF_ERROR(ParseItems("]", false, *expr));
  } else if (TakeOperator("{")) {
    expr->kind = Expr::Kind::kDict;
    RETURN_IF_ERROR(ParseItems("}", true, *expr));
  } else if (token.kind == Kind::kName) {
    const std::string name = Next().text;
    if (name == "true" || name == "True") {
      expr->value = Value(true);
    } else if (name == "false" || name == "False") {
      expr->value = Value(false);
    } else if (name == "none" || name == "None") {
      expr->value = Value::None();
    } else {
      expr->kind = Expr::Kind::kName;
      expr->name = name;
    }
  } else {
    return Unexpected("a value");
  }
  return expr;
}

Status Parser::ParseItems(std::string_view close, bool pairs, Expr& out) {
  while (!TakeOperator(close)) {
    ASSIGN_OR_RETURN(ExprPtr item, ParseExpression());
    out.args.push_back(std::move(item));
    if (pairs) {
      RETURN_IF_ERROR(Expect(":"));
      ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
      out.args.push_back(std::move(value));
    }
    if (!TakeOperator(",") && !Peek().IsOperator(close)) return Unexpected("\",\"");
  }
  return {};
}

Status Parser::ParseArguments(Expr& call) {
  while (!TakeOperator(")")) {
    if (Peek().kind == Kind::kName && Peek(1).IsOperator("=")) {
      std::string name = Next().text;
      Next();
      ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
      call.named.emplace_back(std::move(name), std::move(value));
    } else {
      ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
      call.args.push_back(std::move(value));
    }
    if (!TakeOperator(",") && !Peek().IsOperator(")")) return Unexpected("\",\" or \")\"");
  }
  return {};
}

Result<ExprPtr> Parser::ParseSubscript(ExprPtr object) {
  ExprPtr expr = Make(Expr::Kind::kIndex);
  expr->args.push_back(std::move(object));
  for (int part = 0; part < 3; ++part) {
    ExprPtr value;
    if (!Peek().IsOperator(":") && !Peek().IsOperator("]")) {
      ASSIGN_OR_RETURN(value, ParseExpression());
    }
    expr->args.push_back(std::move(value));
    if (!TakeOperator(":")) break;
    expr->kind = Expr::Kind::kSlice;
  }
  RETURN_IF_ERROR(Expect("]"));
  if (expr->kind == Expr::Kind::kIndex && expr->args[1] == nullptr) {
    return TemplateError(expr->line, "empty index []");
  }
  expr->args.resize(expr->kind == Expr::Kind::kSlice ? 4 : 2);
  return expr;
}

Result<ExprPtr> Parser::ParsePostfix(ExprPtr expr) {
  while (true) {
    RETURN_IF_ERROR(Deepen(*expr));
    if (TakeOperator(".")) {
      ExprPtr attribute = Make(Expr::Kind::kAttribute);
      ASSIGN_OR_RETURN(attribute->name, ExpectName());
      attribute->args.push_back(std::move(expr));
      expr = std::move(attribute);
    } else if (TakeOperator("[")) {
      ASSIGN_OR_RETURN(expr, ParseSubscript(std::move(expr)));
    } else if (TakeOperator("(")) {
      ExprPtr call = Make(Expr::Kind::kCall);
      call->args.push_back(std::move(expr));
      RETURN_IF_ERROR(ParseArguments(*call));
      expr = std::move(call);
    } else {
      return expr;
    }
  }
}

Result<ExprPtr> Parser::ParseFilters(ExprPtr expr) {
  while (true) {
    RETURN_IF_ERROR(Deepen(*expr));
    if (TakeOperator("|")) {
      ExprPtr filter = Make(Expr::Kind::kFilter);
      ASSIGN_OR_RETURN(filter->name, ExpectName());
      filter->args.push_back(std::move(expr));
      if (TakeOperator("(")) RETURN_IF_ERROR(ParseArguments(*filter));
      expr = std::move(filter);
    } else if (TakeName("is")) {
      ASSIGN_OR_RETURN(expr, ParseTest(std::move(expr)));
    } else if (Peek().IsOperator("(")) {
      return TemplateError(Peek().line, "calling the result of a filter is not supported");
    } else {
      return expr;
    }
  }
}

Result<ExprPtr> Parser::ParseTest(ExprPtr expr) {
  const bool negated = TakeName("not");
  ExprPtr test = Make(Expr::Kind::kTest);
  ASSIGN_OR_RETURN(test->name, ExpectName());
  test->args.push_back(std::move(expr));
  const Token& next = Peek();
  const bool value_follows =
      next.kind == Kind::kString || next.kind == Kind::kInt || next.kind == Kind::kFloat ||
      next.IsOperator("[") || next.IsOperator("{") ||
      (next.kind == Kind::kName && next.text != "else" && next.text != "or" && next.text != "and" &&
       next.text != "is" && next.text != "if" && next.text != "in" && next.text != "not");
  if (TakeOperator("(")) {
    RETURN_IF_ERROR(ParseArguments(*test));
  } else if (value_follows) {
    ASSIGN_OR_RETURN(ExprPtr argument, ParsePrimary());
    ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
    test->args.push_back(std::move(argument));
  }
  if (!negated) return test;
  ExprPtr inverse = Make(Expr::Kind::kUnary, "not");
  inverse->args.push_back(std::move(test));
  return inverse;
}

}  // namespace echelon::chat
