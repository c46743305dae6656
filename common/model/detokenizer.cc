#include "common/model/tokenizer.h"
#include "common/model/utf8.h"

namespace echelon {

std::string Detokenizer::Push(int32_t id) {
  if (tokenizer_.IsSpecial(id)) return "";
  std::string bytes = tokenizer_.TokenBytes(id);
  if (bytes.empty()) return "";
  if (at_start_ && tokenizer_.DropsLeadingSpace() && bytes[0] == ' ') bytes.erase(0, 1);
  at_start_ = false;
  pending_ += bytes;
  return TakeCompleteUtf8(pending_);
}

std::string Detokenizer::Flush() {
  std::string rest = RepairUtf8(pending_);
  pending_.clear();
  return rest;
}

}  // namespace echelon
