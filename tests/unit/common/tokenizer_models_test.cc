// The tokenizers of the two real checkpoints against Hugging Face's: 10,000 generated strings
// (tests/tokenizer/make_cases.py says how they were made) and the prompts of the oracle.

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

#include "common/json.h"
#include "common/model/tokenizer.h"
#include "tests/support/test_models.h"

namespace echelon {
namespace {

std::string Fnv(std::string_view bytes) {
  uint64_t hash = 0xCBF29CE484222325;
  for (const char c : bytes) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3;
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

std::string HashIds(const std::vector<int32_t>& ids) {
  std::string bytes;
  for (const int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(id >> shift));
  }
  return Fnv(bytes);
}

std::string Show(const std::vector<int32_t>& ids, const Tokenizer& tokenizer) {
  std::string out;
  for (const int32_t id : ids) {
    out += std::to_string(id) + " " + Json(tokenizer.Decode(std::vector{id})).Dump() + ", ";
  }
  return out;
}

struct Model {
  const char* file;
  int column;  // of its ids in cases.jsonl; the decoded text stands two further
};

class TokenizerModelsTest : public testing::TestWithParam<Model> {
 protected:
  void SetUp() override {
    const std::string path = TestModelPath(GetParam().file);
    if (path.empty()) GTEST_SKIP() << GetParam().file << " is not on this machine";
    auto loaded = LoadTokenizer(path);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    tokenizer_ = std::move(loaded).value();
  }
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(TokenizerModelsTest, EqualsHuggingFaceOnGeneratedStrings) {
  std::ifstream file(ECHELON_SOURCE_DIR "/tests/tokenizer/cases.jsonl");
  ASSERT_TRUE(file.good());
  int cases = 0;
  int wrong = 0;
  for (std::string line; std::getline(file, line); ++cases) {
    auto row = Json::Parse(line, "cases.jsonl");
    ASSERT_TRUE(row.ok()) << row.error().message;
    const Json::Array& fields = row->as_array();
    const std::string& text = fields[0].as_string();
    const std::vector<int32_t> ids = tokenizer_->Encode(text);
    if (HashIds(ids) != fields[GetParam().column].as_string()) {
      if (++wrong <= 5) ADD_FAILURE() << Json(text).Dump() << "\n" << Show(ids, *tokenizer_);
      continue;
    }
    const std::string decoded = tokenizer_->Decode(ids);
    const Json& expected = fields[GetParam().column + 2];
    EXPECT_TRUE(expected.is_string() ? Fnv(decoded) == expected.as_string() : decoded == text)
        << Json(text).Dump() << "\n"
        << Json(decoded).Dump();
  }
  EXPECT_EQ(cases, 10000);
  EXPECT_EQ(wrong, 0);
}

INSTANTIATE_TEST_SUITE_P(Models, TokenizerModelsTest,
                         testing::Values(Model{kSmolModel, 1}, Model{kGemmaModel, 2}),
                         [](const auto& info) {
                           return info.param.column == 1 ? "Smol" : "Gemma";
                         });

}  // namespace
}  // namespace echelon
