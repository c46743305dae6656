#include "common/model/template_parser.h"

namespace echelon::chat {

Status Parser::ParseBlock(const std::vector<std::string_view>& ends, Block& out) {
  const Level level(depth_);
  if (depth_ > kTemplateDepthMax) return TooDeep();
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
    if (depth_ > kTemplateDepthMax) return TooDeep();
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

Result<Block> ParseTemplate(std::string_view source) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Lex(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace echelon::chat
