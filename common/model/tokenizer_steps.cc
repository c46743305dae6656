// The pipeline of tokenizer.json: normalizer, pre_tokenizer, decoder, post_processor. Each step we
// know is read whole; any other is an error that names it.

#include <utility>

#include "common/model/tokenizer_json.h"

namespace echelon {

namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // ▁
// Bytes that a Prepend or Replace may put in; real ones put in one mark of 3 bytes.
constexpr size_t kReplacementBytesMax = 64;
constexpr size_t kStepsMax = 16;  // of one sequence, and sequences inside each other

// Calls `read` for the step, or for each step of a Sequence whose list is called `list`.
template <typename Read>
Status ForEachStep(const JsonField& field, std::string_view list, const Read& read,
                   size_t depth = 0) {
  if (!field.present()) return {};
  ASSIGN_OR_RETURN(const std::string type, field.Member("type").Text());
  if (type != "Sequence") return read(field, type);
  const JsonField steps = field.Member(list);
  ASSIGN_OR_RETURN(const Json::Array* array, steps.Array());
  if (array->size() > kStepsMax || depth > kStepsMax) return steps.NotSupported("too many steps");
  for (size_t i = 0; i < array->size(); ++i) {
    RETURN_IF_ERROR(ForEachStep(steps.Element(i), list, read, depth + 1));
  }
  return {};
}

// {"String": text}, or {"Regex": text} with `regex` set.
Result<std::string> Pattern(const JsonField& field, bool* regex) {
  *regex = field.Member("Regex").present();
  const JsonField text = field.Member(*regex ? "Regex" : "String");
  ASSIGN_OR_RETURN(std::string pattern, text.Text());
  if (pattern.empty()) return Result<std::string>(text.Bad("empty pattern"));
  return pattern;
}

Result<std::string> Replacement(const JsonField& field) {
  ASSIGN_OR_RETURN(std::string text, field.Text());
  if (text.size() > kReplacementBytesMax) {
    return Result<std::string>(
        field.NotSupported(StrCat("more than ", kReplacementBytesMax, " bytes")));
  }
  return text;
}

Status ReadMetaspace(const JsonField& step, PreTokenizerStep& out) {
  out.kind = PreTokenizerStep::Kind::kMetaspace;
  ASSIGN_OR_RETURN(out.pattern, Replacement(step.Member("replacement")));
  if (out.pattern.empty()) out.pattern = kSpaceMark;
  ASSIGN_OR_RETURN(const bool prefix, step.Member("add_prefix_space").Flag(true));
  ASSIGN_OR_RETURN(const std::string scheme,
                   step.Member("prepend_scheme").Text(prefix ? "always" : "never"));
  if (scheme == "always") {
    out.prepend = PreTokenizerStep::Prepend::kAlways;
  } else if (scheme == "first") {
    out.prepend = PreTokenizerStep::Prepend::kFirst;
  } else if (scheme != "never") {
    return step.Member("prepend_scheme").NotSupported(StrCat("\"", ForMessage(scheme), "\""));
  }
  ASSIGN_OR_RETURN(out.split, step.Member("split").Flag(true));
  return {};
}

Status ReadSplit(const JsonField& step, PreTokenizerStep& out) {
  constexpr std::pair<std::string_view, SplitBehavior> kBehaviors[] = {
      {"Isolated", SplitBehavior::kIsolated},
      {"Removed", SplitBehavior::kRemoved},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous}};
  bool regex = false;
  ASSIGN_OR_RETURN(out.pattern, Pattern(step.Member("pattern"), &regex));
  out.kind = regex ? PreTokenizerStep::Kind::kRegex : PreTokenizerStep::Kind::kLiteral;
  ASSIGN_OR_RETURN(out.invert, step.Member("invert").Flag(false));
  ASSIGN_OR_RETURN(const std::string name, step.Member("behavior").Text());
  for (const auto& [known, behavior] : kBehaviors) {
    if (known != name) continue;
    out.behavior = behavior;
    return {};
  }
  return step.Member("behavior").NotSupported(StrCat("\"", ForMessage(name), "\""));
}

}  // namespace

Status ReadNormalizer(const JsonField& field, TokenizerData& data) {
  const auto read = [&](const JsonField& step, const std::string& type) -> Status {
    NormalizerStep out;
    if (type == "NFC") {
      out.kind = NormalizerStep::Kind::kNfc;
    } else if (type == "Prepend") {
      ASSIGN_OR_RETURN(out.content, Replacement(step.Member("prepend")));
    } else if (type == "Replace") {
      bool regex = false;
      out.kind = NormalizerStep::Kind::kReplace;
      ASSIGN_OR_RETURN(out.pattern, Pattern(step.Member("pattern"), &regex));
      if (regex) return step.NotSupported("Replace with a regex is not supported");
      ASSIGN_OR_RETURN(out.content, Replacement(step.Member("content")));
    } else {
      return step.NotSupported(StrCat("normalizer \"", ForMessage(type), "\" is not known"));
    }
    data.normalizer.push_back(std::move(out));
    return {};
  };
  return ForEachStep(field, "normalizers", read);
}

Status ReadPreTokenizer(const JsonField& field, TokenizerData& data) {
  const auto read = [&](const JsonField& step, const std::string& type) -> Status {
    if (data.byte_level) return step.NotSupported("a step after ByteLevel");
    PreTokenizerStep out;
    if (type == "ByteLevel") {
      data.byte_level = true;
      ASSIGN_OR_RETURN(const bool prefix, step.Member("add_prefix_space").Flag(true));
      ASSIGN_OR_RETURN(const bool regex, step.Member("use_regex").Flag(true));
      if (prefix) data.pre_tokenizer.push_back({PreTokenizerStep::Kind::kPrefix});
      if (regex) data.pre_tokenizer.push_back({PreTokenizerStep::Kind::kRegex, "gpt2"});
      return {};
    }
    if (type == "Split") {
      RETURN_IF_ERROR(ReadSplit(step, out));
    } else if (type == "Metaspace") {
      RETURN_IF_ERROR(ReadMetaspace(step, out));
    } else if (type == "Digits") {
      out.kind = PreTokenizerStep::Kind::kDigits;
      ASSIGN_OR_RETURN(const bool alone, step.Member("individual_digits").Flag(false));
      out.behavior = alone ? SplitBehavior::kIsolated : SplitBehavior::kContiguous;
    } else {
      return step.NotSupported(StrCat("pre-tokenizer \"", ForMessage(type), "\" is not known"));
    }
    data.pre_tokenizer.push_back(std::move(out));
    return {};
  };
  return ForEachStep(field, "pretokenizers", read);
}

Status ReadDecoder(const JsonField& field, TokenizerData& data) {
  const auto read = [&](const JsonField& step, const std::string& type) -> Status {
    if (type == "ByteLevel" || type == "ByteFallback" || type == "Fuse") return {};
    if (type == "Replace") {
      bool regex = false;
      ASSIGN_OR_RETURN(const std::string pattern, Pattern(step.Member("pattern"), &regex));
      ASSIGN_OR_RETURN(const std::string content, step.Member("content").Text());
      if (regex || pattern != kSpaceMark || content != " ") {
        return step.NotSupported("Replace of anything but \xE2\x96\x81 by a space");
      }
      data.space_marks = true;
    } else if (type == "Strip") {
      const Json* start = step.Member("start").value;
      const Json* stop = step.Member("stop").value;
      ASSIGN_OR_RETURN(const std::string content, step.Member("content").Text(" "));
      if (content != " " || start == nullptr || !(start->is_int() && start->as_int() == 1) ||
          (stop != nullptr && !(stop->is_int() && stop->as_int() == 0))) {
        return step.NotSupported("Strip of anything but one space at the start");
      }
      data.drops_leading_space = true;
    } else if (type == "Metaspace") {
      PreTokenizerStep meta;
      RETURN_IF_ERROR(ReadMetaspace(step, meta));
      if (meta.pattern != kSpaceMark) return step.NotSupported("Metaspace with another mark");
      data.space_marks = true;
      data.drops_leading_space = meta.prepend != PreTokenizerStep::Prepend::kNever;
    } else {
      return step.NotSupported(StrCat("decoder \"", ForMessage(type), "\" is not known"));
    }
    return {};
  };
  return ForEachStep(field, "decoders", read);
}

Status ReadPostProcessor(const JsonField& field, TokenizerData& data) {
  const auto read = [&](const JsonField& step, const std::string& type) -> Status {
    if (type == "ByteLevel") return {};  // offsets only
    if (type != "TemplateProcessing") {
      return step.NotSupported(StrCat("post-processor \"", ForMessage(type), "\" is not known"));
    }
    const JsonField single = step.Member("single");
    ASSIGN_OR_RETURN(const Json::Array* pieces, single.Array());
    bool before = true;
    for (size_t i = 0; i < pieces->size(); ++i) {
      const JsonField piece = single.Element(i);
      if (piece.Member("Sequence").present()) {
        if (!before) return piece.NotSupported("the text twice");
        before = false;
        continue;
      }
      ASSIGN_OR_RETURN(const std::string name, piece.Member("SpecialToken").Member("id").Text());
      const JsonField ids = step.Member("special_tokens").Member(name).Member("ids");
      ASSIGN_OR_RETURN(const Json::Array* list, ids.Array());
      if (list->empty()) return ids.Bad("no ids");
      for (size_t k = 0; k < list->size(); ++k) {
        ASSIGN_OR_RETURN(const int32_t id, ids.Element(k).Id());
        (before ? data.prefix : data.suffix).push_back(id);
      }
    }
    return {};
  };
  return ForEachStep(field, "processors", read);
}

}  // namespace echelon
