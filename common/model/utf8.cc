#include "common/model/utf8.h"

namespace echelon {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// The lead byte's promise: length, and the range of the second byte, which excludes overlong forms,
// surrogates and codes above U+10FFFF (Unicode, table 3-7).
struct Lead {
  int bytes = 0;
  uint8_t second_min = 0x80;
  uint8_t second_max = 0xBF;
};

Lead LeadOf(uint8_t byte) {
  if (byte < 0x80) return {1};
  if (byte < 0xC2) return {0};
  if (byte < 0xE0) return {2};
  if (byte < 0xF0) {
    if (byte == 0xE0) return {3, 0xA0, 0xBF};
    if (byte == 0xED) return {3, 0x80, 0x9F};
    return {3};
  }
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0};
}

}  // namespace

Utf8Char DecodeUtf8(std::string_view text, size_t position) {
  const auto byte_at = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte_at(position);
  const Lead lead = LeadOf(first);
  if (lead.bytes == 1) return {first, 1, true};
  if (lead.bytes == 0) return {0, 1};
  char32_t code = first & (0x7F >> lead.bytes);
  for (int i = 1; i < lead.bytes; ++i) {
    if (position + i >= text.size()) return {0, i, false, true};
    const uint8_t next = byte_at(position + i);
    const uint8_t low = i == 1 ? lead.second_min : 0x80;
    const uint8_t high = i == 1 ? lead.second_max : 0xBF;
    if (next < low || next > high) return {0, i};
    code = code << 6 | (next & 0x3F);
  }
  return {code, lead.bytes, true};
}

void AppendUtf8(std::string& out, char32_t code) {
  const auto tail = [&](int shift) {
    out.push_back(static_cast<char>(0x80 | (code >> shift & 0x3F)));
  };
  if (code < 0x80) {
    out.push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out.push_back(static_cast<char>(0xC0 | code >> 6));
    tail(0);
  } else if (code < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | code >> 12));
    tail(6);
    tail(0);
  } else {
    out.push_back(static_cast<char>(0xF0 | code >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

std::string TakeCompleteUtf8(std::string& pending) {
  std::string out;
  size_t position = 0;
  while (position < pending.size()) {
    const Utf8Char c = DecodeUtf8(pending, position);
    if (c.cut) break;
    out.append(c.valid ? std::string_view(pending).substr(position, c.bytes) : kReplacement);
    position += c.bytes;
  }
  pending.erase(0, position);
  return out;
}

std::string RepairUtf8(std::string_view bytes) {
  std::string pending(bytes);
  std::string out = TakeCompleteUtf8(pending);
  if (!pending.empty()) out.append(kReplacement);
  return out;
}

std::string ForMessage(std::string_view text) {
  constexpr size_t kBytesMax = 64;
  std::string out = RepairUtf8(text.substr(0, kBytesMax));
  for (char& c : out) {
    if (static_cast<uint8_t>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return text.size() > kBytesMax ? out + "..." : out;
}

bool IsUnicodeSpace(char32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
         code == 0x202F || code == 0x205F || code == 0x3000;
}

}  // namespace echelon
