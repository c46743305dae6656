#pragma once
// TokenizerData: what a checkpoint says about its tokenizer, in one neutral form that both loaders
// (GGUF metadata, tokenizer.json) fill and BuildTokenizer (bpe_tokenizer.h) checks and uses. The
// names of the steps are those of Hugging Face's tokenizers. Plain values.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace echelon {

// Tokens of a vocabulary; the largest we know has 262,208. Ids need 20 bits in a merge's rank.
inline constexpr int64_t kVocabularyMax = int64_t{1} << 20;
// Characters of one token; the longest we know is 96 spaces. Lengths need 12 bits in a rank.
inline constexpr int kTokenCharsMax = 4095;
// Bytes of an added token: matching costs at most that many steps per byte of text.
inline constexpr size_t kAddedTokenBytesMax = 512;
// Bytes of all added tokens; Gemma 3 has 77 KB. A byte costs up to 80 bytes of search tree: 40 MiB.
inline constexpr size_t kAddedBytesMax = size_t{512} << 10;

// A token found in the text before anything else looks at it.
struct AddedToken {
  int32_t id = 0;
  std::string text;
  bool special = false;      // control token: not in decoded text, never out of untrusted text
  bool normalized = false;   // found in the normalized text instead of the raw one
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
};

struct NormalizerStep {
  enum class Kind { kPrepend, kReplace, kNfc };
  Kind kind = Kind::kPrepend;
  std::string pattern;  // kReplace
  std::string content;  // kPrepend, kReplace
};

// What becomes of the matches of a Split step.
enum class SplitBehavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct PreTokenizerStep {
  enum class Kind {
    kRegex,      // `pattern` is a regex known to SplitRegex (pre_tokenizer.h)
    kLiteral,    // `pattern` is the text itself
    kDigits,     // numeric characters, each alone (kIsolated) or together (kContiguous)
    kPrefix,     // a space before a piece that does not begin with one
    kMetaspace,  // spaces become ▁ (`pattern`), pieces begin with it
  };
  Kind kind = Kind::kRegex;
  std::string pattern;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // kRegex, kLiteral: the gaps match
  enum class Prepend { kNever, kFirst, kAlways } prepend = Prepend::kNever;  // kMetaspace
  bool split = true;  // kMetaspace: a piece per ▁
};

struct TokenizerData {
  std::string source;               // the file, for messages
  std::vector<std::string> tokens;  // by id, as the file spells them; "" is a hole
  bool byte_level = false;          // tokens are spelled in the byte alphabet (byte_level.h)
  // Merges in order of priority; or, where the file lists none, scores (one per token, highest
  // first): any two tokens whose texts joined make a token may merge.
  std::vector<std::pair<std::string, std::string>> merges;
  std::vector<float> scores;
  bool byte_fallback = false;  // a character outside the vocabulary becomes <0xNN> tokens
  bool fuse_unknown = false;   // several unknown characters make one unknown token
  bool ignore_merges = false;  // a piece that is a token becomes it without merging
  int32_t unknown_id = -1;     // -1: unknown characters vanish
  std::vector<AddedToken> added;
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre_tokenizer;
  std::vector<int32_t> prefix;  // what add_special puts before and after the text
  std::vector<int32_t> suffix;
  bool space_marks = false;          // decoding turns ▁ into a space
  bool drops_leading_space = false;  // decoding drops one space at the start of a text
  int32_t bos_id = -1;
  std::vector<int32_t> end_ids;
  std::string chat_template;
};

}  // namespace echelon
