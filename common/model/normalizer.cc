#include "common/model/normalizer.h"

#include <algorithm>

#include "common/model/nfc.h"
#include "common/model/utf8.h"

namespace echelon {

namespace {

// Every `pattern` becomes `content`, which is as trusted as the first byte it replaces.
MarkedText Replace(const MarkedText& in, std::string_view pattern, std::string_view content) {
  MarkedText out;
  size_t position = 0;
  while (position < in.text.size()) {
    const size_t found = std::min(in.text.find(pattern, position), in.text.size());
    out.text.append(in.text, position, found - position);
    if (!in.untrusted.empty()) out.untrusted.append(in.untrusted, position, found - position);
    if (found == in.text.size()) break;
    out.text += content;
    if (!in.untrusted.empty()) out.untrusted.append(content.size(), in.untrusted[found]);
    position = found + pattern.size();
  }
  return out;
}

}  // namespace

MarkedText RepairMarked(const MarkedText& in) {
  MarkedText out;
  for (size_t i = 0; i < in.text.size();) {
    const Utf8Char c = DecodeUtf8(in.text, i);
    const size_t before = out.text.size();
    AppendUtf8(out.text, c.valid ? c.code : 0xFFFD);
    if (!in.untrusted.empty()) {
      out.untrusted.append(out.text.size() - before, in.untrusted[i]);
    }
    i += c.bytes;
  }
  return out;
}

MarkedText Normalize(const std::vector<NormalizerStep>& steps, MarkedText text) {
  for (const NormalizerStep& step : steps) {
    if (text.text.empty()) break;
    switch (step.kind) {
      case NormalizerStep::Kind::kPrepend:
        text.text.insert(0, step.content);
        if (!text.untrusted.empty()) text.untrusted.insert(0, step.content.size(), '\0');
        break;
      case NormalizerStep::Kind::kReplace:
        text = Replace(text, step.pattern, step.content);
        break;
      case NormalizerStep::Kind::kNfc:
        text = ToNfc(text);
        break;
    }
  }
  return text;
}

}  // namespace echelon
