#pragma once
// Value: what a chat template computes with. Texts remember which of their bytes came from a
// message. Copies share; only a namespace can change after it was made.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/json.h"
#include "common/model/marked_text.h"

namespace echelon::chat {

struct Stmt;

// Lists and dictionaries inside each other; JSON brings at most 64. Bounds the stack of everything
// that walks a value.
inline constexpr int kValueDepthMax = 100;

class Value {
 public:
  enum class Kind {
    kUndefined,
    kNone,
    kBool,
    kInt,
    kUint,  // an integer beyond int64_t
    kDouble,
    kText,
    kList,
    kDict,
    kNamespace,
    kMacro,
    kFunction
  };
  enum class Function { kRaise, kNamespace, kRange, kDict };
  using List = std::vector<Value>;
  using Dict = std::vector<std::pair<MarkedText, Value>>;

  Value() = default;
  static Value None() { return Value(nullptr); }
  Value(bool value) : value_(value) {}     // NOLINT
  Value(int64_t value) : value_(value) {}  // NOLINT
  Value(uint64_t value);                   // NOLINT: kInt where it fits
  Value(double value) : value_(value) {}   // NOLINT
  Value(MarkedText text) : value_(std::make_shared<const MarkedText>(std::move(text))) {}  // NOLINT
  Value(std::string text) : Value(MarkedText{std::move(text), ""}) {}                      // NOLINT
  Value(List list);                                                                        // NOLINT
  Value(Dict dict);                                                                        // NOLINT
  Value(const Stmt* macro) : value_(macro) {}                                              // NOLINT
  Value(Function function) : value_(function) {}                                           // NOLINT
  static Value Namespace(Dict dict);

  Kind kind() const { return static_cast<Kind>(value_.index()); }
  bool Is(Kind k) const { return kind() == k; }
  bool is_undefined() const { return Is(Kind::kUndefined); }
  bool is_text() const { return Is(Kind::kText); }
  bool is_integer() const { return Is(Kind::kInt) || Is(Kind::kUint); }
  bool is_number() const { return Is(Kind::kBool) || is_integer() || Is(Kind::kDouble); }

  // Each of these asks for the right kind.
  const MarkedText& text() const { return *std::get<std::shared_ptr<const MarkedText>>(value_); }
  const List& list() const { return *std::get<std::shared_ptr<const List>>(value_); }
  const Dict& dict() const;  // of a namespace too
  Dict& fields() const { return *std::get<std::shared_ptr<Dict>>(value_); }
  const Stmt* macro() const { return std::get<const Stmt*>(value_); }
  Function function() const { return std::get<Function>(value_); }
  int64_t as_int() const;    // of a bool too; not of a kUint
  uint64_t as_uint() const;  // of a kUint
  double as_double() const;  // of any number

  // Lists and dictionaries inside each other, 0 for plain values. A namespace counts as too deep to
  // be put into anything: that keeps values free of cycles.
  int depth() const { return depth_; }
  bool Truthy() const;
  const Value* Find(std::string_view key) const;  // of a dict or namespace; null where none
  const char* KindName() const;                   // as Python calls it
  friend bool operator==(const Value& a, const Value& b);

 private:
  explicit Value(std::nullptr_t) : value_(nullptr) {}
  std::variant<std::monostate, std::nullptr_t, bool, int64_t, uint64_t, double,
               std::shared_ptr<const MarkedText>, std::shared_ptr<const List>,
               std::shared_ptr<const Dict>, std::shared_ptr<Dict>, const Stmt*, Function>
      value_;
  int depth_ = 0;
};

// Every text of `json` marked untrusted.
Value UntrustedValue(const Json& json);
// What {{ value }} prints.
MarkedText Print(const Value& value);
// json.dumps(value, ensure_ascii=False), with `indent` >= 0 over several lines. False where a value
// has no JSON form.
bool AppendJson(const Value& value, int indent, int depth, MarkedText& out);

}  // namespace echelon::chat
