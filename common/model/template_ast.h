#pragma once
// The parsed form of a chat template: expressions and statements. Owned by the tree's root.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/model/template_lexer.h"
#include "common/model/template_value.h"

namespace echelon::chat {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  enum class Kind {
    kLiteral,      // value
    kName,         // name
    kList,         // args
    kDict,         // args: key, value, key, value, ...
    kAttribute,    // args[0].name
    kIndex,        // args[0][args[1]]
    kSlice,        // args[0][args[1]:args[2]:args[3]], null where left out
    kCall,         // args[0](args[1..], named)
    kFilter,       // args[0] | name(args[1..], named)
    kTest,         // args[0] is name(args[1..])
    kUnary,        // name: not - +
    kBinary,       // name: + - * / // % ~ == != < > <= >= in "not in" and or
    kConditional,  // args[0] if args[1] else args[2] (null where left out)
  };
  Kind kind = Kind::kLiteral;
  int line = 1;
  int depth = 1;  // of the tree below, this node included
  std::string name;
  Value value;
  std::vector<ExprPtr> args;
  std::vector<std::pair<std::string, ExprPtr>> named;
};

struct Stmt;
using Block = std::vector<std::unique_ptr<Stmt>>;

struct Stmt {
  enum class Kind {
    kText,      // value
    kOutput,    // expr
    kIf,        // expr, body, otherwise
    kFor,       // names in expr, if condition: body, otherwise
    kSet,       // names = expr, or where expr is null: names[0] = the output of body
    kSetField,  // names[0].names[1] = expr
    kMacro,     // names[0](names[1..]), defaults for the last of them: body
    kBreak,
    kContinue,
  };
  Kind kind = Kind::kText;
  int line = 1;
  Value value;
  ExprPtr expr;
  ExprPtr condition;
  std::vector<std::string> names;
  std::vector<ExprPtr> defaults;  // kMacro: one per parameter, null where it has none
  Block body;
  Block otherwise;
};

Result<Block> ParseTemplate(std::string_view source);

}  // namespace echelon::chat
