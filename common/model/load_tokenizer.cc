#include <filesystem>

#include "common/model/bpe_tokenizer.h"

namespace echelon {

Result<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& path) {
  const std::filesystem::path file(path);
  std::error_code error;
  const bool folder = std::filesystem::is_directory(file, error);
  // A checkpoint may be named by one of its files; the tokenizer lies beside it.
  const bool beside = file.extension() == ".safetensors" || file.extension() == ".json";
  if (!folder && !beside) {
    ASSIGN_OR_RETURN(TokenizerData data, ReadGgufTokenizer(path));
    return BuildTokenizer(std::move(data));
  }
  const std::filesystem::path place = folder ? file : file.parent_path();
  ASSIGN_OR_RETURN(TokenizerData data, ReadTokenizerJson(place.empty() ? "." : place.string()));
  return BuildTokenizer(std::move(data));
}

}  // namespace echelon
