// echelon tokenize: the ids of a text, as the model's tokenizer gives them by default.

#include "client/cli/answer.h"
#include "client/cli/commands.h"
#include "client/cli/errors.h"
#include "common/json.h"
#include "common/model/tokenizer.h"
#include "common/strings.h"

namespace echelon {

Status RunTokenize(const TokenizeOptions& options) {
  if (!IsValidUtf8(options.text)) return UsageError("--text is not valid UTF-8");
  ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(options.model));
  const std::vector<int32_t> ids = tokenizer->Encode(options.text);
  if (options.json) {
    Json array = Json::MakeArray();
    for (const int32_t id : ids) array.Append(int64_t{id});
    Json out = Json::MakeObject();
    out.Set("ids", std::move(array));
    PrintText(out.Dump() + "\n");
    return Status();
  }
  std::vector<std::string> words;
  for (const int32_t id : ids) words.push_back(StrCat(id));
  PrintText(Join(words, " ") + "\n");
  return Status();
}

}  // namespace echelon
