#pragma once
// Tokenizer: text to token ids and back, equal to Hugging Face's tokenizers token for token.
// Immutable after loading; safe to use from several threads at once.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace echelon {

// A stretch of a prompt. In trusted text (the template's own, or a raw prompt) the text of a
// special token becomes that token; in untrusted text (a chat message's content) it never does.
struct TextSpan {
  std::string text;
  bool trusted = true;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // add_special: the tokens the checkpoint adds by default (Gemma: <bos>), as Hugging Face does.
  // Spans are tokenized as one text: a boundary between spans is no boundary between tokens.
  virtual std::vector<int32_t> Encode(std::span<const TextSpan> spans, bool add_special) const = 0;
  std::vector<int32_t> Encode(std::string_view text, bool add_special = true) const {
    const TextSpan span{std::string(text), true};
    return Encode(std::span<const TextSpan>(&span, 1), add_special);
  }
  virtual int32_t vocab_size() const = 0;
  // The bytes a token stands for when it follows other text; special tokens too. "" for an id that
  // stands for nothing (out of range, or a hole in the vocabulary).
  virtual std::string TokenBytes(int32_t id) const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;
  // Decoding drops one space at the start of a text (tokenizers that put one there to encode).
  virtual bool DropsLeadingSpace() const { return false; }
  // The whole text of ids, special tokens left out, invalid UTF-8 replaced by U+FFFD.
  virtual std::string Decode(std::span<const int32_t> ids) const = 0;
  virtual int32_t bos_id() const = 0;                       // -1 where there is none
  virtual const std::vector<int32_t>& end_ids() const = 0;  // ids that end a text
  virtual const std::string& chat_template() const = 0;     // "" where the model has none
};

// Loads the tokenizer of a .gguf file or of a folder with tokenizer.json.
Result<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& path);
// For dummy weights of a bare configuration: one token a byte (its value modulo the vocabulary), a
// token's text is its number. No special tokens, no template.
std::unique_ptr<Tokenizer> MakeByteTokenizer(int32_t vocab_size);

// Turns ids into text as they arrive; never emits half a UTF-8 character. All pushes and the flush
// joined equal Decode of the same ids. One per stream; `tokenizer` must outlive it.
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  // The text that became certain with this token (often all of it, sometimes nothing). "" for a
  // special token.
  std::string Push(int32_t id);
  // What is left at the end: incomplete bytes as U+FFFD.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;
  bool at_start_ = true;  // no text yet
};

}  // namespace echelon
