#include <algorithm>
#include <string>
#include <vector>

#include "common/check.h"
#include "common/model/tokenizer.h"
#include "common/strings.h"

namespace echelon {

namespace {

class ByteTokenizer final : public Tokenizer {
 public:
  explicit ByteTokenizer(int32_t vocab_size) : vocab_size_(vocab_size) { CHECK(vocab_size > 0); }

  std::vector<int32_t> Encode(std::span<const TextSpan> spans, bool) const override {
    std::vector<int32_t> ids;
    for (const TextSpan& span : spans) {
      for (const char c : span.text) ids.push_back(static_cast<uint8_t>(c) % vocab_size_);
    }
    return ids;
  }
  int32_t vocab_size() const override { return vocab_size_; }
  std::string TokenBytes(int32_t id) const override { return StrCat(" ", id); }
  bool IsSpecial(int32_t) const override { return false; }
  std::string Decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (const int32_t id : ids) text += TokenBytes(id);
    return text;
  }
  int32_t bos_id() const override { return -1; }
  const std::vector<int32_t>& end_ids() const override { return end_ids_; }
  const std::string& chat_template() const override { return chat_template_; }

 private:
  int32_t vocab_size_;
  std::vector<int32_t> end_ids_;
  std::string chat_template_;
};

}  // namespace

std::unique_ptr<Tokenizer> MakeByteTokenizer(int32_t vocab_size) {
  return std::make_unique<ByteTokenizer>(vocab_size);
}

}  // namespace echelon
