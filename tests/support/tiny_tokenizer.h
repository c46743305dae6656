#pragma once
// A byte-level BPE tokenizer small enough for a tiny model: tokens 0..255 are the bytes, then the
// merges of "hello", special tokens, and fillers up to the size of the vocabulary.

#include <string>
#include <vector>

#include "common/json.h"

namespace echelon {

struct TinyVocabulary {
  std::vector<std::string> tokens;  // as byte-level BPE writes them (space is "Ġ")
  std::vector<std::string> merges;  // "h e"
  int first_special = 0;            // <|endoftext|>, <|im_start|>, <|im_end|>
  int first_filler = 0;
};
TinyVocabulary MakeTinyVocabulary(int size);
Json TinyTokenizerJson(const TinyVocabulary& vocabulary);
extern const char* const kTinyChatTemplate;

}  // namespace echelon
