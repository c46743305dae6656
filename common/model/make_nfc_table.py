#!/usr/bin/env python3
"""Writes common/model/nfc_table.cc: what Unicode's normalization form C needs to know.

usage: make_nfc_table.py > common/model/nfc_table.cc

Unicode 9, as in the normalizer of Hugging Face's tokenizers: Python 3.6 has it.
"""
import unicodedata

HANGUL = range(0xAC00, 0xD7A4)  # by arithmetic, not by table


def rows(items, width=100):
    line = "    "
    for item in items:
        if len(line) + len(item) + 1 > width:
            print(line)
            line = "    "
        line += item + ","
    print(line)


pairs, others, classes = [], [], []
for code in range(0x110000):
    c = chr(code)
    text = unicodedata.decomposition(c)
    if text and not text.startswith("<") and code not in HANGUL:
        parts = [int(p, 16) for p in text.split()] + [0]
        composes = len(parts) == 3 and unicodedata.normalize("NFC", chr(parts[0]) + chr(parts[1])) == c
        (pairs if composes else others).append("%d,%d,%d" % (code, parts[0], parts[1]))
    combining = unicodedata.combining(c)
    if combining:
        if classes and classes[-1][1] == code - 1 and classes[-1][2] == combining:
            classes[-1][1] = code
        else:
            classes.append([code, code, combining])

print("// Made by common/model/make_nfc_table.py from Unicode %s; do not edit.\n" % unicodedata.unidata_version)
print('#include "common/model/nfc.h"\n\nnamespace echelon {\n\nnamespace {\n\n// clang-format off')
print("// Character, its first part, its second; the parts compose to it again.")
print("constexpr uint32_t kPairs[] = {")
rows(pairs)
print("};\n\n// The same for characters that do not come back; second part 0: there is one only.")
print("constexpr uint32_t kOthers[] = {")
rows(others)
print("};\n\n// First, last, canonical combining class.\nconstexpr uint32_t kCombining[] = {")
rows("%d,%d,%d" % tuple(r) for r in classes)
print("};\n// clang-format on\n\n}  // namespace\n")
print("std::span<const uint32_t> NfcPairs() { return kPairs; }")
print("std::span<const uint32_t> NfcOthers() { return kOthers; }")
print("std::span<const uint32_t> NfcCombiningClasses() { return kCombining; }\n\n}  // namespace echelon")
