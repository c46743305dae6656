#include "common/config_yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "common/strings.h"

namespace echelon {

namespace {

// Gathers entries from yaml-cpp's events. It leaves by YAML's own exception at the first thing that
// a configuration does not need, so that nothing nested is ever built or recursed into.
class EntryCollector : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override { Scalar(mark, ""); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    Refuse(mark, "aliases are not used here; write the value out");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                const std::string& value) override {
    // "?" is a plain scalar, "!" a quoted one; anything else was written by hand.
    if (tag != "?" && tag != "!" && !tag.empty()) Refuse(mark, "tags are not used here");
    if (!IsConfigText(value)) {
      Refuse(mark, "control characters and line breaks are not allowed in keys and values");
    }
    Scalar(mark, value);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    Refuse(mark, "lists are not used here; give a list as text, for example \"1,3,5\"");
  }
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    if (have_key_ ? depth_ == 2 : depth_ > 0) {
      Refuse(mark, "nested too deeply: only \"section:\" with \"key: value\" lines below it");
    }
    if (++depth_ == 2) {
      section_ = std::move(key_);
      have_key_ = false;
      keys_.clear();
    }
  }
  void OnMapEnd() override {
    --depth_;
    have_key_ = false;
  }

  std::vector<ConfigEntry> Take() { return std::move(entries_); }

 private:
  [[noreturn]] static void Refuse(const YAML::Mark& mark, const std::string& why) {
    throw YAML::ParserException(mark, why);
  }
  // Scalars of a map come in turn: key, value, key, value.
  void Scalar(const YAML::Mark& mark, const std::string& value) {
    if (depth_ == 0) {
      if (value.empty()) return;  // an empty document
      Refuse(mark, "expected sections with keys, for example \"model:\" and \"  path: ...\" below");
    }
    if (!have_key_) {
      std::set<std::string>& seen = depth_ == 1 ? sections_ : keys_;
      if (!seen.insert(value).second) Refuse(mark, StrCat("\"", value, "\" is given twice"));
      key_ = value;
      have_key_ = true;
      return;
    }
    have_key_ = false;
    const int line = mark.line + 1;
    if (depth_ == 2) {
      entries_.push_back({section_, key_, value, line});
    } else if (value.empty()) {
      entries_.push_back({key_, "", "", line});
    } else {
      Refuse(mark, StrCat("\"", key_, "\" stands outside any section"));
    }
  }

  int depth_ = 0;  // of maps: 1 = sections, 2 = keys
  bool have_key_ = false;
  std::string section_, key_;
  std::set<std::string> sections_, keys_;
  std::vector<ConfigEntry> entries_;
};

}  // namespace

bool IsConfigText(std::string_view text) {
  const auto control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  return IsValidUtf8(text) && std::none_of(text.begin(), text.end(), control);
}

Result<std::vector<ConfigEntry>> ReadConfigYaml(std::string_view yaml, std::string_view source) {
  if (yaml.size() > kConfigBytesMax) {
    return InvalidArgument(
        StrCat(source, ": larger than ", kConfigBytesMax, " bytes; is this a configuration?"));
  }
  if (!IsValidUtf8(yaml)) return InvalidArgument(StrCat(source, ": not UTF-8 text"));
  try {
    std::istringstream stream{std::string(yaml)};
    YAML::Parser parser(stream);
    EntryCollector collector;
    if (parser.HandleNextDocument(collector) && parser.HandleNextDocument(collector)) {
      return InvalidArgument(StrCat(source, ": more than one YAML document (\"---\")"));
    }
    return collector.Take();
  } catch (const YAML::Exception& e) {
    return InvalidArgument(StrCat(source, ":", e.mark.line + 1, ": ", e.msg));
  }
}

}  // namespace echelon
