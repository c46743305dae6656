#include "coordinator/text_stream.h"

#include <algorithm>

namespace echelon {

namespace {

// Length of the longest suffix of `text` that begins `stop` and is shorter than it.
size_t HeldSuffix(const std::string& text, const std::string& stop) {
  for (size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n) {
    if (text.compare(text.size() - n, n, stop, 0, n) == 0) return n;
  }
  return 0;
}

// `size` moved back so that text[0, size) ends on a UTF-8 character boundary.
size_t CharacterBoundary(const std::string& text, size_t size) {
  while (size > 0 && size < text.size() &&
         (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) {
    --size;
  }
  return size;
}

}  // namespace

TextStream::Output TextStream::Release(std::string fresh) {
  held_ += fresh;
  size_t cut = std::string::npos;
  for (const std::string& stop : stop_strings_) cut = std::min(cut, held_.find(stop));
  Output out;
  if (cut != std::string::npos) {
    out.text = held_.substr(0, CharacterBoundary(held_, cut));
    out.stopped = stopped_ = true;
    held_.clear();
    return out;
  }
  size_t held = 0;
  for (const std::string& stop : stop_strings_) held = std::max(held, HeldSuffix(held_, stop));
  const size_t certain = CharacterBoundary(held_, held_.size() - held);
  out.text = held_.substr(0, certain);
  held_.erase(0, certain);
  return out;
}

TextStream::Output TextStream::Push(int32_t token) {
  if (stopped_) return {};
  return Release(detokenizer_.Push(token));
}

TextStream::Output TextStream::Flush() {
  if (stopped_) return {};
  Output out = Release(detokenizer_.Flush());
  if (!out.stopped) out.text += held_;
  held_.clear();
  return out;
}

}  // namespace echelon
