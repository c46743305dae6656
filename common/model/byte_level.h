#pragma once
// The byte alphabet of GPT-2: each byte is written as one printable character, so that any bytes
// can stand in a vocabulary of text. Bytes that print (! to ~, and the Latin-1 letters) stand for
// themselves; the other 68 become U+0100, U+0101, ... in order. Pure functions.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace echelon {

char32_t ByteLevelChar(uint8_t byte);
// The byte a character of the alphabet stands for, or nothing.
std::optional<uint8_t> ByteLevelByte(char32_t code);
// The bytes that a token of such a vocabulary stands for; a token with characters outside the
// alphabet stands for its own UTF-8 bytes, as in Hugging Face's decoder.
std::string ByteLevelBytes(std::string_view token);

// The same bytes in the alphabet.
std::string ByteLevelText(std::string_view bytes);

}  // namespace echelon
