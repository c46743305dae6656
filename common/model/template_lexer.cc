#include "common/model/template_lexer.h"

#include <algorithm>
#include <array>
#include <optional>

#include "common/model/utf8.h"
#include "common/strings.h"

namespace echelon::chat {

namespace {

bool IsSpace(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f';
}
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool IsNameChar(char c) { return IsNameStart(c) || IsDigit(c); }

// Longest first.
constexpr std::array<std::string_view, 26> kOperators = {
    "==", "!=", "<=", ">=", "//", "**", "+", "-", "*", "/", "%", "~", "<",
    ">",  "=",  "(",  ")",  "[",  "]",  "{", "}", "|", ".", ",", ":", ";"};

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {}

  Result<std::vector<Token>> Run() {
    while (at_ < source_.size()) {
      const size_t open = FindOpen();
      Text(open);
      at_ = open;
      if (at_ == source_.size()) break;
      const char kind = source_[at_ + 1];
      at_ += 2;
      if (at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+')) ++at_;
      if (kind == '#') {
        RETURN_IF_ERROR(Comment());
      } else {
        Add(kind == '{' ? Token::Kind::kOpenOutput : Token::Kind::kOpenBlock, "");
        RETURN_IF_ERROR(Inside(kind == '{' ? "}}" : "%}"));
      }
    }
    Add(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  void Add(Token::Kind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), line_});
  }
  void Advance(size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + at_, source_.begin() + to, '\n'));
    at_ = to;
  }
  size_t FindOpen() const {
    for (size_t i = at_; i + 1 < source_.size(); ++i) {
      if (source_[i] == '{' &&
          (source_[i + 1] == '{' || source_[i + 1] == '%' || source_[i + 1] == '#')) {
        return i;
      }
    }
    return source_.size();
  }

  // The text before the tag at `open` (or before the end).
  void Text(size_t open) {
    std::string_view text = source_.substr(at_, open - at_);
    const bool ends = open == source_.size();
    const char mark = !ends && open + 2 < source_.size() ? source_[open + 2] : ' ';
    if (!ends && mark == '-') {
      while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
    } else if (!ends && mark != '+' && source_[open + 1] != '{') {
      // lstrip_blocks: a block tag alone on its line takes the blanks before it along.
      size_t blanks = text.size();
      while (blanks > 0 && IsSpace(text[blanks - 1]) && text[blanks - 1] != '\n') --blanks;
      const bool line_start = blanks > 0 ? text[blanks - 1] == '\n' : at_line_start_;
      if (line_start) text = text.substr(0, blanks);
    }
    if (!text.empty()) Add(Token::Kind::kText, std::string(text));
    Advance(open);
  }

  // After the end of a tag: "-" strips all white space, trim_blocks one line break.
  void AfterTag(bool strip, bool block) {
    const size_t begin = at_;
    size_t end = at_;
    if (strip) {
      while (end < source_.size() && IsSpace(source_[end])) ++end;
    } else if (block && end < source_.size() && source_[end] == '\n') {
      ++end;
    }
    Advance(end);
    at_line_start_ = end > begin && source_[end - 1] == '\n';
  }

  Status Comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string_view::npos) return TemplateError(line_, "comment without end");
    const char before = source_[end - 1];
    Advance(end + 2);
    AfterTag(before == '-', before != '+');
    return {};
  }

  Status Inside(std::string_view close) {
    int braces = 0;  // a "}}" that closes dictionaries does not close the tag
    while (true) {
      while (at_ < source_.size() && IsSpace(source_[at_])) Advance(at_ + 1);
      if (at_ == source_.size()) return TemplateError(line_, "tag without end");
      const std::string_view rest = source_.substr(at_);
      if (braces == 0) {
        const size_t sign = rest[0] == '-' || rest[0] == '+' ? 1 : 0;
        if (rest.substr(sign).starts_with(close)) {
          Add(Token::Kind::kClose, "");
          Advance(at_ + sign + 2);
          AfterTag(rest[0] == '-', close == "%}" && rest[0] != '+');
          return {};
        }
      }
      if (rest[0] == '\'' || rest[0] == '"') {
        RETURN_IF_ERROR(String());
      } else if (IsDigit(rest[0])) {
        Number();
      } else if (IsNameStart(rest[0])) {
        size_t end = 1;
        while (end < rest.size() && IsNameChar(rest[end])) ++end;
        Add(Token::Kind::kName, std::string(rest.substr(0, end)));
        at_ += end;
      } else {
        const auto op = std::find_if(kOperators.begin(), kOperators.end(),
                                     [&](std::string_view o) { return rest.starts_with(o); });
        if (op == kOperators.end()) {
          return TemplateError(line_, StrCat("unexpected character \"", rest.substr(0, 1), "\""));
        }
        Add(Token::Kind::kOperator, std::string(*op));
        if (*op == "{") ++braces;
        if (*op == "}") --braces;
        at_ += op->size();
      }
    }
  }

  void Number() {
    size_t end = at_;
    while (end < source_.size() && (IsDigit(source_[end]) || source_[end] == '_')) ++end;
    Token::Kind kind = Token::Kind::kInt;
    if (end + 1 < source_.size() && source_[end] == '.' && IsDigit(source_[end + 1])) {
      kind = Token::Kind::kFloat;
      ++end;
      while (end < source_.size() && IsDigit(source_[end])) ++end;
    }
    std::string text(source_.substr(at_, end - at_));
    text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
    Add(kind, std::move(text));
    at_ = end;
  }

  Status String() {
    const char quote = source_[at_];
    std::string text;
    size_t i = at_ + 1;
    for (; i < source_.size() && source_[i] != quote; ++i) {
      if (source_[i] != '\\' || i + 1 == source_.size()) {
        text.push_back(source_[i]);
        continue;
      }
      const size_t used = Escape(source_.substr(i + 1), text);
      if (used == 0) {
        return TemplateError(line_, StrCat("escape \"", source_.substr(i, 2), "\" in a string"));
      }
      i += used;
    }
    if (i >= source_.size()) return TemplateError(line_, "string without end");
    Add(Token::Kind::kString, std::move(text));
    Advance(i + 1);
    return {};
  }

  // What follows a backslash; how many characters it took, 0 where we do not know it.
  static size_t Escape(std::string_view rest, std::string& out) {
    constexpr std::string_view kNames = "ntr\\'\"abfv0\n";
    constexpr std::string_view kMeanings("\n\t\r\\'\"\a\b\f\v\0", 11);
    const size_t simple = kNames.find(rest[0]);
    if (simple != std::string_view::npos) {
      if (simple < kMeanings.size()) out.push_back(kMeanings[simple]);  // an escaped line end: none
      return 1;
    }
    const size_t digits = rest[0] == 'x' ? 2 : rest[0] == 'u' ? 4 : rest[0] == 'U' ? 8 : 0;
    if (digits == 0) {  // Python keeps a backslash it does not understand
      out.push_back('\\');
      out.push_back(rest[0]);
      return rest[0] == 'N' || static_cast<uint8_t>(rest[0]) >= 0x80 ? 0 : 1;
    }
    if (rest.size() <= digits) return 0;
    uint32_t code = 0;
    for (size_t i = 1; i <= digits; ++i) {
      const char c = rest[i];
      const int value = IsDigit(c)             ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (value < 0) return 0;
      code = code << 4 | static_cast<uint32_t>(value);
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return 0;
    AppendUtf8(out, code);
    return digits + 1;
  }

  const std::string_view source_;
  size_t at_ = 0;
  int line_ = 1;
  bool at_line_start_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

Error TemplateError(int line, const std::string& what) {
  return Unsupported(StrCat("chat template, line ", line, ": ", what));
}

Result<std::vector<Token>> Lex(std::string_view source) {
  std::string text;
  for (size_t i = 0; i < source.size(); ++i) {  // any line break becomes \n, as Jinja reads it
    if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
    text.push_back(source[i] == '\r' ? '\n' : source[i]);
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();  // keep_trailing_newline is off
  return Lexer(text).Run();
}

}  // namespace echelon::chat
