// Parses chat templates. Precedence is Jinja's: if-else, or, and, not, comparisons, + -, ~,
// * / // %, unary, then postfix and filters.

#include <algorithm>
#include <charconv>

#include "common/model/template_ast.h"
#include "common/strings.h"

namespace echelon::chat {

namespace {

// Brackets and blocks inside each other; real templates stay below 20. Bounds the stack of parser
// and evaluator.
constexpr int kDepthMax = 100;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Result<Block> Run() {
    Block block;
    RETURN_IF_ERROR(ParseBlock({}, block));
    return block;
  }

 private:
  using Kind = Token::Kind;
  // The depth of a new node's tree: a chain (a + b + c ...) grows it without nesting.
  Status Deepen(Expr& expr) const {
    const auto count = [&](const ExprPtr& child) {
      if (child != nullptr) expr.depth = std::max(expr.depth, child->depth + 1);
    };
    for (const ExprPtr& child : expr.args) count(child);
    for (const auto& [name, child] : expr.named) count(child);
    return expr.depth <= kDepthMax ? Status() : TooDeep();
  }
  // Counts a level of nesting while it lives.
  struct Level {
    explicit Level(int& depth) : depth_(++depth) {}
    ~Level() { --depth_; }
    int& depth_;
  };

  const Token& Peek(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  Token Next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool TakeOperator(std::string_view text) {
    if (!Peek().IsOperator(text)) return false;
    Next();
    return true;
  }
  bool TakeName(std::string_view text) {
    if (!Peek().IsName(text)) return false;
    Next();
    return true;
  }
  Error Unexpected(std::string_view wanted) const {
    const Token& token = Peek();
    const std::string found = token.kind == Kind::kClose || token.kind == Kind::kEnd
                                  ? "the end of the tag"
                                  : StrCat("\"", token.text.substr(0, 40), "\"");
    return TemplateError(token.line, StrCat(found, " where ", wanted, " was expected"));
  }
  Status Expect(std::string_view op) {
    if (!TakeOperator(op)) return Unexpected(StrCat("\"", op, "\""));
    return {};
  }
  Status ExpectClose() {
    if (Peek().kind != Kind::kClose) return Unexpected("the end of the tag");
    Next();
    return {};
  }
  Result<std::string> ExpectName() {
    if (Peek().kind != Kind::kName) return Result<std::string>(Unexpected("a name"));
    return Next().text;
  }
  Error TooDeep() const {
    return TemplateError(Peek().line, StrCat("nested deeper than ", kDepthMax));
  }
  ExprPtr Make(Expr::Kind kind, std::string name = "") const {
    auto expr = std::make_unique<Expr>();
    expr->kind = kind;
    expr->line = Peek().line;
    expr->name = std::move(name);
    return expr;
  }
  std::unique_ptr<Stmt> MakeStmt(Stmt::Kind kind) const {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = Peek().line;
    return stmt;
  }

  // Statements up to a block tag whose name is in `ends`, which stays; without `ends`, to the end.
  Status ParseBlock(const std::vector<std::string_view>& ends, Block& out);
  Status ParseTag(Block& out);
  Status EndTag(std::string_view name);
  Result<std::unique_ptr<Stmt>> ParseIf();
  Result<std::unique_ptr<Stmt>> ParseFor();
  Result<std::unique_ptr<Stmt>> ParseSet();
  Result<std::unique_ptr<Stmt>> ParseMacro();
  Status ParseNames(std::vector<std::string>& names);

  Result<ExprPtr> ParseExpression();
  Result<ExprPtr> ParseTuple();  // an expression, or several with commas: a list
  Result<ExprPtr> ParseOr();
  Result<ExprPtr> ParseAnd();
  Result<ExprPtr> ParseNot();
  Result<ExprPtr> ParseComparison();
  Result<ExprPtr> ParseBinary(int level);
  Result<ExprPtr> ParseUnary(bool with_filters);
  Result<ExprPtr> ParsePrimary();
  Result<ExprPtr> ParsePostfix(ExprPtr expr);
  Result<ExprPtr> ParseFilters(ExprPtr expr);
  Result<ExprPtr> ParseTest(ExprPtr expr);
  Result<ExprPtr> ParseSubscript(ExprPtr expr);
  Status ParseArguments(Expr& call);
  Status ParseItems(std::string_view close, bool pairs, Expr& out);
  Result<ExprPtr> Binary(std::string name, ExprPtr left, Result<ExprPtr> right);

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};

Status Parser::ParseBlock(const std::vector<std::string_view>& ends, Block& out) {
  const Level level(depth_);
  if (depth_ > kDepthMax) return TooDeep();
  while (true) {
    const Token& token = Peek();
    if (token.kind == Kind::kEnd) {
      if (ends.empty()) return {};
      return TemplateError(token.line, StrCat("no {% ", ends.back(), " %} before the end"));
    }
    if (token.kind == Kind::kText) {
      auto stmt = MakeStmt(Stmt::Kind::kText);
      stmt->value = Value(Next().text);
      out.push_back(std::move(stmt));
    } else if (token.kind == Kind::kOpenOutput) {
      Next();
      auto stmt = MakeStmt(Stmt::Kind::kOutput);
      ASSIGN_OR_RETURN(stmt->expr, ParseTuple());
      RETURN_IF_ERROR(ExpectClose());
      out.push_back(std::move(stmt));
    } else {
      const std::string& name = Peek(1).text;
      if (Peek(1).kind == Kind::kName && std::find(ends.begin(), ends.end(), name) != ends.end()) {
        return {};
      }
      RETURN_IF_ERROR(ParseTag(out));
    }
  }
}

Status Parser::ParseTag(Block& out) {
  Next();
  if (TakeName("generation")) {  // marks what the assistant said, for training: its body counts
    RETURN_IF_ERROR(ExpectClose());
    RETURN_IF_ERROR(ParseBlock({"endgeneration"}, out));
    return EndTag("endgeneration");
  }
  Result<std::unique_ptr<Stmt>> stmt = std::unique_ptr<Stmt>();
  if (TakeName("if")) {
    stmt = ParseIf();
  } else if (TakeName("for")) {
    stmt = ParseFor();
  } else if (TakeName("set")) {
    stmt = ParseSet();
  } else if (TakeName("macro")) {
    stmt = ParseMacro();
  } else if (Peek().IsName("break") || Peek().IsName("continue")) {
    stmt = MakeStmt(Next().text == "break" ? Stmt::Kind::kBreak : Stmt::Kind::kContinue);
    RETURN_IF_ERROR(ExpectClose());
  } else {
    return TemplateError(
        Peek().line, StrCat("statement {% ", Peek().text.substr(0, 40), " %} is not supported"));
  }
  if (!stmt.ok()) return stmt.error();
  out.push_back(std::move(stmt).value());
  return {};
}

Status Parser::EndTag(std::string_view name) {
  Next();
  if (!TakeName(name)) return Unexpected(StrCat("{% ", name, " %}"));
  return ExpectClose();
}

Result<std::unique_ptr<Stmt>> Parser::ParseIf() {
  auto stmt = MakeStmt(Stmt::Kind::kIf);
  ASSIGN_OR_RETURN(stmt->expr, ParseTuple());
  RETURN_IF_ERROR(ExpectClose());
  RETURN_IF_ERROR(ParseBlock({"elif", "else", "endif"}, stmt->body));
  if (Peek(1).IsName("elif")) {
    Next();
    Next();
    const Level level(depth_);
    if (depth_ > kDepthMax) return TooDeep();
    ASSIGN_OR_RETURN(std::unique_ptr<Stmt> rest, ParseIf());
    stmt->otherwise.push_back(std::move(rest));
    return stmt;
  }
  if (Peek(1).IsName("else")) {
    RETURN_IF_ERROR(EndTag("else"));
    RETURN_IF_ERROR(ParseBlock({"endif"}, stmt->otherwise));
  }
  RETURN_IF_ERROR(EndTag("endif"));
  return stmt;
}

Status Parser::ParseNames(std::vector<std::string>& names) {
  const bool brackets = TakeOperator("(");
  do {
    ASSIGN_OR_RETURN(std::string name, ExpectName());
    names.push_back(std::move(name));
  } while (TakeOperator(",") && Peek().kind == Kind::kName);
  return brackets ? Expect(")") : Status();
}

Result<std::unique_ptr<Stmt>> Parser::ParseFor() {
  auto stmt = MakeStmt(Stmt::Kind::kFor);
  RETURN_IF_ERROR(ParseNames(stmt->names));
  if (!TakeName("in")) return Unexpected("\"in\"");
  ASSIGN_OR_RETURN(stmt->expr, ParseOr());  // an "if" after it filters
  if (TakeName("if")) {
    ASSIGN_OR_RETURN(stmt->condition, ParseExpression());
  }
  if (Peek().IsName("recursive"))
    return TemplateError(Peek().line, "recursive loops are not supported");
  RETURN_IF_ERROR(ExpectClose());
  RETURN_IF_ERROR(ParseBlock({"else", "endfor"}, stmt->body));
  if (Peek(1).IsName("else")) {
    RETURN_IF_ERROR(EndTag("else"));
    RETURN_IF_ERROR(ParseBlock({"endfor"}, stmt->otherwise));
  }
  RETURN_IF_ERROR(EndTag("endfor"));
  return stmt;
}

Result<std::unique_ptr<Stmt>> Parser::ParseSet() {
  auto stmt = MakeStmt(Stmt::Kind::kSet);
  RETURN_IF_ERROR(ParseNames(stmt->names));
  if (stmt->names.size() == 1 && TakeOperator(".")) {
    stmt->kind = Stmt::Kind::kSetField;
    ASSIGN_OR_RETURN(std::string field, ExpectName());
    stmt->names.push_back(std::move(field));
  }
  if (TakeOperator("=")) {
    ASSIGN_OR_RETURN(stmt->expr, ParseTuple());
    RETURN_IF_ERROR(ExpectClose());
    return stmt;
  }
  if (stmt->kind == Stmt::Kind::kSetField || stmt->names.size() > 1) return Unexpected("\"=\"");
  RETURN_IF_ERROR(ExpectClose());
  RETURN_IF_ERROR(ParseBlock({"endset"}, stmt->body));
  RETURN_IF_ERROR(EndTag("endset"));
  return stmt;
}

Result<std::unique_ptr<Stmt>> Parser::ParseMacro() {
  auto stmt = MakeStmt(Stmt::Kind::kMacro);
  ASSIGN_OR_RETURN(std::string name, ExpectName());
  stmt->names.push_back(std::move(name));
  RETURN_IF_ERROR(Expect("("));
  while (!TakeOperator(")")) {
    ASSIGN_OR_RETURN(std::string parameter, ExpectName());
    stmt->names.push_back(std::move(parameter));
    stmt->defaults.emplace_back();
    if (TakeOperator("=")) {
      ASSIGN_OR_RETURN(stmt->defaults.back(), ParseExpression());
    }
    if (!TakeOperator(",") && !Peek().IsOperator(")")) return Unexpected("\",\" or \")\"");
  }
  RETURN_IF_ERROR(ExpectClose());
  RETURN_IF_ERROR(ParseBlock({"endmacro"}, stmt->body));
  RETURN_IF_ERROR(EndTag("endmacro"));
  return stmt;
}

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
  if (depth_ > kDepthMax) return TooDeep();
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
  if (depth_ > kDepthMax) return TooDeep();
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
  if (depth_ > kDepthMax) return TooDeep();
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

}  // namespace

Result<Block> ParseTemplate(std::string_view source) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Lex(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace echelon::chat
