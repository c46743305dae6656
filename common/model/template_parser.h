#pragma once
// The parser of chat templates: statements in template_parser.cc, expressions in
// template_expressions.cc. Precedence is Jinja's: if-else, or, and, not, comparisons, + -, ~,
// * / // %, unary, then postfix and filters. One per template.

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "common/model/template_ast.h"
#include "common/strings.h"

namespace echelon::chat {

// Brackets and blocks inside each other, and the depth of an expression's tree; real templates stay
// below 20. Bounds the stack of parser and evaluator.
inline constexpr int kTemplateDepthMax = 100;

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
    return expr.depth <= kTemplateDepthMax ? Status() : TooDeep();
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
    return TemplateError(Peek().line, StrCat("nested deeper than ", kTemplateDepthMax));
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

}  // namespace echelon::chat
