#define PCRE2_CODE_UNIT_WIDTH 8
#include "common/model/split_regex.h"

#include <pcre2.h>

#include "common/model/utf8.h"
#include "common/strings.h"

namespace echelon {

namespace {

struct KnownRegex {
  std::string_view name;
  std::string_view pattern;
};

// clang-format off
constexpr KnownRegex kKnown[] = {
    {"gpt2", R"re('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)re"},
    {"gpt2", R"re('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)re"},
    {"llama3", R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re"},
    {"qwen2", R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re"},
    {"qwen3.5", R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re"},
    {"tekken", R"re([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)re"},
    {"gpt-4o", R"re([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)re"},
    {"digits", R"re(\p{N})re"},
    // A word character, \w, as Rust's regexes have it: beside tokens that want to be single words.
    {"word", R"re([\p{L}\p{M}\p{N}\p{Pc}\x{200c}\x{200d}\x{24b6}-\x{24e9}])re"},
};
// clang-format on

// White_Space; PCRE2's own \s counts U+180E too, which lost the property in Unicode 6.3.
constexpr std::string_view kSpaces =
    R"(\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
// What Unicode 15 and 16 added to the letters, numbers and marks of Unicode 14, the version of the
// oldest PCRE2 we build with (10.40).
constexpr std::string_view kNewLetters =
    R"(\x{1c89}-\x{1c8a}\x{a7cb}-\x{a7cd}\x{a7da}-\x{a7dc}\x{105c0}-\x{105f3})"
    R"(\x{10d4a}-\x{10d65}\x{10d6f}-\x{10d85}\x{10ec2}-\x{10ec4}\x{1123f}-\x{11240})"
    R"(\x{11380}-\x{11389}\x{1138b}\x{1138e}\x{11390}-\x{113b5}\x{113b7}\x{113d1}\x{113d3})"
    R"(\x{11bc0}-\x{11be0}\x{11f02}\x{11f04}-\x{11f10}\x{11f12}-\x{11f33}\x{1342f})"
    R"(\x{13441}-\x{13446}\x{13460}-\x{143fa}\x{16100}-\x{1611d}\x{16d40}-\x{16d6c}\x{18cff})"
    R"(\x{1b132}\x{1b155}\x{1df25}-\x{1df2a}\x{1e030}-\x{1e06d}\x{1e4d0}-\x{1e4eb})"
    R"(\x{1e5d0}-\x{1e5ed}\x{1e5f0}\x{2b739}\x{2ebf0}-\x{2ee5d}\x{31350}-\x{323af})";
constexpr std::string_view kNewNumbers =
    R"(\x{10d40}-\x{10d49}\x{116d0}-\x{116e3}\x{11bf0}-\x{11bf9}\x{11f50}-\x{11f59})"
    R"(\x{16130}-\x{16139}\x{16d70}-\x{16d79}\x{1ccf0}-\x{1ccf9}\x{1d2c0}-\x{1d2d3})"
    R"(\x{1e4f0}-\x{1e4f9}\x{1e5f1}-\x{1e5fa})";
constexpr std::string_view kNewMarks =
    R"(\x{897}\x{cf3}\x{ece}\x{10d69}-\x{10d6d}\x{10efc}-\x{10eff}\x{11241})"
    R"(\x{113b8}-\x{113c0}\x{113c2}\x{113c5}\x{113c7}-\x{113ca}\x{113cc}-\x{113d0}\x{113d2})"
    R"(\x{113e1}-\x{113e2}\x{11f00}-\x{11f01}\x{11f03}\x{11f34}-\x{11f3a}\x{11f3e}-\x{11f42})"
    R"(\x{11f5a}\x{13440}\x{13447}-\x{13455}\x{1611e}-\x{1612f}\x{1e08f}\x{1e4ec}-\x{1e4ef})"
    R"(\x{1e5ee}-\x{1e5ef})";

struct ClassText {
  std::string_view escape;
  std::string_view inside;  // what it means within brackets
  std::string_view more;    // and what comes on top of it
};
// New letters count as Lo where a regex tells the kinds of letters apart: right for all but 110
// cased letters of Garay, Latin and Vithkuqi.
constexpr ClassText kClasses[] = {
    {R"(\s)", kSpaces, ""},
    {R"(\p{L})", R"(\p{L})", kNewLetters},
    {R"(\p{N})", R"(\p{N})", kNewNumbers},
    {R"(\p{M})", R"(\p{M})", kNewMarks},
    {R"(\p{Lo})", R"(\p{Lo})", kNewLetters},
};

// The same regex in PCRE2's terms: classes spelled out as above.
std::string Translate(std::string_view pattern) {
  std::string out;
  bool in_brackets = false;
  for (size_t i = 0; i < pattern.size();) {
    const std::string_view rest = pattern.substr(i);
    const ClassText* found = nullptr;
    for (const ClassText& c : kClasses) {
      if (rest.starts_with(c.escape)) found = &c;
    }
    if (found != nullptr) {
      out += in_brackets ? StrCat(found->inside, found->more)
                         : StrCat("[", found->inside, found->more, "]");
      i += found->escape.size();
    } else if (rest.starts_with(R"(\S)")) {
      out += StrCat("[^", kSpaces, "]");
      i += 2;
    } else {
      if (rest[0] == '[') in_brackets = true;
      if (rest[0] == ']') in_brackets = false;
      const size_t count = rest[0] == '\\' ? 2 : 1;
      out += rest.substr(0, count);
      i += count;
    }
  }
  return out;
}

struct MatchDataDelete {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

}  // namespace

struct SplitRegex::Code {
  pcre2_code* code = nullptr;
  ~Code() { pcre2_code_free(code); }
};

SplitRegex::SplitRegex(std::unique_ptr<Code> code) : code_(std::move(code)) {}
SplitRegex::~SplitRegex() = default;

Result<std::unique_ptr<SplitRegex>> SplitRegex::Find(std::string_view pattern_or_name) {
  const KnownRegex* known = nullptr;
  for (const KnownRegex& row : kKnown) {
    if (known == nullptr && (row.name == pattern_or_name || row.pattern == pattern_or_name)) {
      known = &row;
    }
  }
  if (known == nullptr) {
    return Unsupported(StrCat("pre-tokenizer regex \"", ForMessage(pattern_or_name),
                              "\" is not one of those known"));
  }
  const std::string text = Translate(known->pattern);
  auto code = std::make_unique<Code>();
  int error = 0;
  PCRE2_SIZE offset = 0;
  code->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                             PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  CHECK_MSG(code->code != nullptr, StrCat("regex ", known->name, " at ", offset, ": ", error));
  // Without JIT (an architecture that has none) matching is slower, not different.
  pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE);
  return std::unique_ptr<SplitRegex>(new SplitRegex(std::move(code)));
}

std::vector<TextRange> SplitRegex::Matches(std::string_view text) const {
  std::vector<TextRange> matches;
  const std::unique_ptr<pcre2_match_data, MatchDataDelete> data(
      pcre2_match_data_create_from_pattern(code_->code, nullptr));
  CHECK(data != nullptr);
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t position = 0;
  while (position < text.size()) {
    int count = pcre2_match(code_->code, subject, text.size(), position, PCRE2_NO_UTF_CHECK,
                            data.get(), nullptr);
    // The JIT's stack is small and fixed; the interpreter takes its memory from the heap.
    if (count == PCRE2_ERROR_JIT_STACKLIMIT) {
      count = pcre2_match(code_->code, subject, text.size(), position,
                          PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data.get(), nullptr);
    }
    if (count == PCRE2_ERROR_NOMATCH) break;
    if (count < 0) {  // a limit of the library: one character alone, and on
      position += DecodeUtf8(text, position).bytes;
      continue;
    }
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data.get());
    CHECK(range[1] > range[0]);  // no regex of the table matches nothing
    matches.push_back({range[0], range[1]});
    position = range[1];
  }
  return matches;
}

}  // namespace echelon
