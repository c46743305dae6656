#pragma once
// BuildTokenizer: checks what a file says about its tokenizer and makes the tokenizer of it. The
// steps are those of Hugging Face's tokenizers, in their order: added tokens of the raw text,
// normalizer, added tokens of the normalized text, pre-tokenizer, byte-pair merging, and the tokens
// that stand before and after the text.

#include <memory>

#include "common/model/tokenizer.h"
#include "common/model/tokenizer_data.h"
#include "common/result.h"

namespace echelon {

Result<std::unique_ptr<Tokenizer>> BuildTokenizer(TokenizerData data);

// The two loaders: data as the file has it, checked as far as reading it needs.
Result<TokenizerData> ReadGgufTokenizer(const std::string& path);
Result<TokenizerData> ReadTokenizerJson(const std::string& folder);

}  // namespace echelon
