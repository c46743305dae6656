#include "common/model/bpe_tokenizer.h"

namespace echelon {

Result<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& path) {
  ASSIGN_OR_RETURN(TokenizerData data, ReadGgufTokenizer(path));
  return BuildTokenizer(std::move(data));
}

}  // namespace echelon
