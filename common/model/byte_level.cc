#include "common/model/byte_level.h"

#include "common/model/utf8.h"

namespace echelon {

namespace {

constexpr bool Prints(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

}  // namespace

char32_t ByteLevelChar(uint8_t byte) {
  if (Prints(byte)) return byte;
  // The bytes before this one that do not print: 0..32, then 127..160, then 173.
  if (byte <= 0x20) return 0x100 + byte;
  if (byte <= 0xA0) return 0x100 + 33 + (byte - 0x7F);
  return 0x100 + 67;
}

std::optional<uint8_t> ByteLevelByte(char32_t code) {
  if (code < 0x100) {
    if (!Prints(static_cast<int>(code))) return std::nullopt;
    return static_cast<uint8_t>(code);
  }
  const char32_t index = code - 0x100;
  if (index <= 0x20) return static_cast<uint8_t>(index);
  if (index <= 66) return static_cast<uint8_t>(0x7F + index - 33);
  if (index == 67) return uint8_t{0xAD};
  return std::nullopt;
}

std::string ByteLevelBytes(std::string_view token) {
  std::string bytes;
  for (size_t i = 0; i < token.size();) {
    const Utf8Char c = DecodeUtf8(token, i);
    const std::optional<uint8_t> byte = c.valid ? ByteLevelByte(c.code) : std::nullopt;
    if (!byte) return std::string(token);
    bytes.push_back(static_cast<char>(*byte));
    i += c.bytes;
  }
  return bytes;
}

std::string ByteLevelText(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) AppendUtf8(text, ByteLevelChar(static_cast<uint8_t>(c)));
  return text;
}

}  // namespace echelon
