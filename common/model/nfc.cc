#include "common/model/nfc.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "common/model/utf8.h"

namespace echelon {

namespace {

// Below this nothing decomposes into what would not compose again, and nothing combines.
constexpr char32_t kFirstCombining = 0x300;

// Hangul syllables are arithmetic: 19 leads x 21 vowels x 28 tails (0: none).
constexpr uint32_t kSyllables = 0xAC00, kLeads = 0x1100, kVowels = 0x1161, kTails = 0x11A7;
constexpr uint32_t kLeadCount = 19, kVowelCount = 21, kTailCount = 28;
constexpr uint32_t kSyllableCount = kLeadCount * kVowelCount * kTailCount;

struct Mark {
  uint32_t code = 0;
  uint8_t combining = 0;  // canonical combining class
  bool untrusted = false;
};

// The row of three with the last first number not above `code`, or null.
const uint32_t* FindRow(std::span<const uint32_t> table, uint32_t code) {
  size_t low = 0;
  size_t high = table.size() / 3;
  while (low < high) {
    const size_t middle = (low + high) / 2;
    if (table[middle * 3] <= code) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low == 0 ? nullptr : &table[(low - 1) * 3];
}

uint8_t CombiningClass(uint32_t code) {
  const uint32_t* row = FindRow(NfcCombiningClasses(), code);
  return row != nullptr && code <= row[1] ? static_cast<uint8_t>(row[2]) : 0;
}

void Decompose(uint32_t code, bool untrusted, std::vector<Mark>& out) {
  if (code >= kSyllables && code < kSyllables + kSyllableCount) {
    const uint32_t index = code - kSyllables;
    out.push_back({kLeads + index / (kVowelCount * kTailCount), 0, untrusted});
    out.push_back({kVowels + index / kTailCount % kVowelCount, 0, untrusted});
    if (index % kTailCount != 0) out.push_back({kTails + index % kTailCount, 0, untrusted});
    return;
  }
  for (const std::span<const uint32_t> table : {NfcPairs(), NfcOthers()}) {
    const uint32_t* row = FindRow(table, code);
    if (row == nullptr || row[0] != code) continue;
    Decompose(row[1], untrusted, out);  // at most 4 deep: Unicode's longest chain
    if (row[2] != 0) Decompose(row[2], untrusted, out);
    return;
  }
  out.push_back({code, CombiningClass(code), untrusted});
}

using Compositions = std::map<std::pair<uint32_t, uint32_t>, uint32_t>;

Compositions MakeCompositions() {
  Compositions pairs;
  const std::span<const uint32_t> table = NfcPairs();
  for (size_t i = 0; i < table.size(); i += 3) {
    pairs[{table[i + 1], table[i + 2]}] = table[i];
  }
  return pairs;
}

// The character that two compose to, or 0.
uint32_t Compose(uint32_t first, uint32_t second) {
  static const Compositions kPairs = MakeCompositions();  // immutable, made when first needed
  if (first >= kLeads && first < kLeads + kLeadCount && second >= kVowels &&
      second < kVowels + kVowelCount) {
    return kSyllables + ((first - kLeads) * kVowelCount + (second - kVowels)) * kTailCount;
  }
  if (first >= kSyllables && first < kSyllables + kSyllableCount &&
      (first - kSyllables) % kTailCount == 0 && second > kTails && second < kTails + kTailCount) {
    return first + (second - kTails);
  }
  const auto it = kPairs.find({first, second});
  return it == kPairs.end() ? 0 : it->second;
}

void OrderMarks(std::vector<Mark>& marks) {
  for (size_t begin = 0; begin < marks.size();) {
    size_t end = begin + 1;
    if (marks[begin].combining != 0) {
      while (end < marks.size() && marks[end].combining != 0) ++end;
      std::stable_sort(marks.begin() + begin, marks.begin() + end,
                       [](const Mark& a, const Mark& b) { return a.combining < b.combining; });
    }
    begin = end;
  }
}

// Composes in place: each character with the last starter before it, unless one of its own or a
// higher class (or another starter) stands between them.
void ComposeMarks(std::vector<Mark>& marks) {
  size_t kept = 0;
  size_t starter = marks.size();  // none yet
  for (size_t i = 0; i < marks.size(); ++i) {
    const Mark mark = marks[i];
    if (starter < kept) {
      const bool adjacent = starter + 1 == kept;
      const bool reachable = adjacent || (marks[kept - 1].combining != 0 &&
                                          marks[kept - 1].combining < mark.combining);
      const uint32_t composed = reachable ? Compose(marks[starter].code, mark.code) : 0;
      if (composed != 0) {
        marks[starter].code = composed;
        marks[starter].untrusted = marks[starter].untrusted || mark.untrusted;
        continue;
      }
    }
    if (mark.combining == 0) starter = kept;
    marks[kept++] = mark;
  }
  marks.resize(kept);
}

}  // namespace

MarkedText ToNfc(const MarkedText& text) {
  std::vector<Mark> marks;
  bool changes = false;
  for (size_t i = 0; i < text.text.size();) {
    const Utf8Char c = DecodeUtf8(text.text, i);
    changes = changes || c.code >= kFirstCombining;
    Decompose(c.code, !text.Trusted(i, i + 1), marks);
    i += c.bytes;
  }
  if (!changes) return text;
  OrderMarks(marks);
  ComposeMarks(marks);
  MarkedText out;
  for (const Mark& mark : marks) {
    const size_t before = out.text.size();
    AppendUtf8(out.text, mark.code);
    if (!text.untrusted.empty()) {
      out.untrusted.append(out.text.size() - before, mark.untrusted ? '\1' : '\0');
    }
  }
  return out;
}

}  // namespace echelon
