// deploy/echelon.yaml against the code: every key, in the table's order, with its default, and the
// table's help (with the unit) as the comment above it.

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <vector>

#include "common/config.h"
#include "common/strings.h"

namespace echelon {
namespace {

struct SampleKey {
  std::string name, value, comment;
};

std::string Trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" #\"");
  if (begin == text.npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(" \"") - begin + 1));
}

std::vector<SampleKey> ReadSample(const std::string& text) {
  std::vector<SampleKey> keys;
  std::string section, comment, line;
  std::istringstream lines(text);
  while (std::getline(lines, line)) {
    const std::string content = Trimmed(line);
    const size_t colon = line.find(':');
    if (content.empty() && line.find(':') == line.npos) {
      comment.clear();
    } else if (line.find('#') == line.find_first_not_of(' ')) {
      comment += StrCat(comment.empty() ? "" : " ", content);
    } else if (line[0] != ' ') {
      section = line.substr(0, colon);
      comment.clear();
    } else {
      keys.push_back({StrCat(section, ".", Trimmed(line.substr(0, colon))),
                      Trimmed(line.substr(colon + 1)), comment});
      comment.clear();
    }
  }
  return keys;
}

std::string SampleText() {
  std::ifstream file(ECHELON_SOURCE_DIR "/deploy/echelon.yaml");
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(ConfigSample, DocumentsEveryKey) {
  const std::vector<SampleKey> sample = ReadSample(SampleText());
  const std::vector<ConfigKey> keys = ConfigKeys();
  ASSERT_EQ(sample.size(), keys.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    EXPECT_EQ(sample[i].name, keys[i].name);
    EXPECT_EQ(sample[i].value, keys[i].default_value) << keys[i].name;
    const std::string unit = keys[i].unit.empty() ? "" : StrCat(" (", keys[i].unit, ")");
    EXPECT_EQ(sample[i].comment, keys[i].help + unit) << keys[i].name;
  }
}

TEST(ConfigSample, IsTheDefaultConfiguration) {
  const auto config = ParseConfig(SampleText(), "deploy/echelon.yaml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(PrintConfig(*config), PrintConfig(ServiceConfig{}));
}

}  // namespace
}  // namespace echelon
