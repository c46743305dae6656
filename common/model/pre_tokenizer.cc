#include "common/model/pre_tokenizer.h"

#include "common/strings.h"

namespace echelon {

namespace {

struct Part {
  TextRange range;
  bool match = false;
};

std::vector<TextRange> FindLiteral(std::string_view text, std::string_view literal) {
  std::vector<TextRange> matches;
  size_t at = 0;
  while ((at = text.find(literal, at)) != std::string_view::npos) {
    matches.push_back({at, at + literal.size()});
    at += literal.size();
  }
  return matches;
}

std::string ReplaceSpaces(std::string_view text, std::string_view mark) {
  std::string out;
  for (char c : text) {
    if (c == ' ') {
      out += mark;
    } else {
      out.push_back(c);
    }
  }
  return out;
}

}  // namespace

void CutPieces(std::string_view text, const std::vector<TextRange>& matches, SplitBehavior behavior,
               bool invert, std::vector<std::string_view>& out) {
  std::vector<Part> parts;
  size_t position = 0;
  const auto add = [&](size_t begin, size_t end, bool match) {
    if (begin < end) parts.push_back({{begin, end}, match != invert});
  };
  for (const TextRange& m : matches) {
    add(position, m.begin, false);
    add(m.begin, m.end, true);
    position = m.end;
  }
  add(position, text.size(), false);

  // Each behavior is one question: does this part begin a piece of its own?
  bool previous_match = false;
  TextRange piece;
  const auto flush = [&] {
    if (piece.begin < piece.end) out.push_back(text.substr(piece.begin, piece.end - piece.begin));
    piece = {0, 0};
  };
  for (size_t i = 0; i < parts.size(); ++i) {
    const Part& part = parts[i];
    if (behavior == SplitBehavior::kRemoved && part.match) {
      flush();
      continue;
    }
    bool joins = false;
    if (i > 0 && piece.begin < piece.end) {
      switch (behavior) {
        case SplitBehavior::kIsolated:
        case SplitBehavior::kRemoved:
          break;
        case SplitBehavior::kMergedWithPrevious:
          joins = part.match && !previous_match;
          break;
        case SplitBehavior::kMergedWithNext:
          joins = !part.match && previous_match;
          break;
        case SplitBehavior::kContiguous:
          joins = part.match == previous_match;
          break;
      }
    }
    if (!joins) {
      flush();
      piece.begin = part.range.begin;
    }
    piece.end = part.range.end;
    previous_match = part.match;
  }
  flush();
}

Result<PreTokenizer> PreTokenizer::Create(const std::vector<PreTokenizerStep>& steps,
                                          const std::string& source) {
  PreTokenizer out;
  for (const PreTokenizerStep& step : steps) {
    Step made{step, nullptr};
    if (step.kind == PreTokenizerStep::Kind::kRegex ||
        step.kind == PreTokenizerStep::Kind::kDigits) {
      auto regex = SplitRegex::Find(
          step.kind == PreTokenizerStep::Kind::kDigits ? "digits" : std::string_view(step.pattern));
      if (!regex.ok()) {
        Error error = regex.error();
        error.message = StrCat(source, ": pre_tokenizer: ", error.message);
        return error;
      }
      made.regex = std::move(regex).value();
    }
    out.steps_.push_back(std::move(made));
  }
  return out;
}

void PreTokenizer::Split(std::string_view text, bool at_start, Pieces& out) const {
  std::vector<std::string_view> pieces{text};
  std::vector<std::string_view> next;
  const auto keep = [&](std::string changed) -> std::string_view {
    return out.changed.emplace_back(std::move(changed));
  };
  for (const Step& entry : steps_) {
    const PreTokenizerStep& step = entry.step;
    next.clear();
    for (size_t i = 0; i < pieces.size(); ++i) {
      const std::string_view piece = pieces[i];
      if (piece.empty()) continue;
      switch (step.kind) {
        case PreTokenizerStep::Kind::kRegex:
        case PreTokenizerStep::Kind::kDigits:
          CutPieces(piece, entry.regex->Matches(piece), step.behavior, step.invert, next);
          break;
        case PreTokenizerStep::Kind::kLiteral:
          CutPieces(piece, FindLiteral(piece, step.pattern), step.behavior, step.invert, next);
          break;
        case PreTokenizerStep::Kind::kPrefix:
          next.push_back(piece.starts_with(' ') ? piece : keep(StrCat(" ", piece)));
          break;
        case PreTokenizerStep::Kind::kMetaspace: {
          std::string marked = ReplaceSpaces(piece, step.pattern);
          const bool wanted =
              step.prepend == PreTokenizerStep::Prepend::kAlways ||
              (step.prepend == PreTokenizerStep::Prepend::kFirst && at_start && i == 0);
          if (wanted && !marked.starts_with(step.pattern)) marked.insert(0, step.pattern);
          const std::string_view view = keep(std::move(marked));
          if (step.split) {
            CutPieces(view, FindLiteral(view, step.pattern), SplitBehavior::kMergedWithNext, false,
                      next);
          } else {
            next.push_back(view);
          }
          break;
        }
      }
    }
    pieces.swap(next);
  }
  for (std::string_view piece : pieces) {
    if (!piece.empty()) out.views.push_back(piece);
  }
}

}  // namespace echelon
