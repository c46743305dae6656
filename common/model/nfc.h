#pragma once
// Unicode's normalization form C: characters composed as far as they can be, marks in canonical
// order. Source: Unicode, annex 15. Pure functions.

#include <cstdint>
#include <span>

#include "common/model/marked_text.h"

namespace echelon {

// `text` is valid UTF-8. A composed character is trusted where all its parts were.
MarkedText ToNfc(const MarkedText& text);

// The tables (nfc_table.cc), in threes, ascending by character; see there.
std::span<const uint32_t> NfcPairs();
std::span<const uint32_t> NfcOthers();
std::span<const uint32_t> NfcCombiningClasses();

}  // namespace echelon
