// What the metadata of a GGUF file may say about its tokenizer.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <fstream>

#include "common/model/tokenizer.h"
#include "common/strings.h"
#include "tests/support/gguf_bytes.h"

namespace echelon {
namespace {

using Ids = std::vector<int32_t>;

GgufSpec ByteSpec() {
  GgufSpec spec;
  spec.String("general.architecture", "llama");
  spec.String("tokenizer.ggml.model", "gpt2");
  spec.String("tokenizer.ggml.pre", "smollm");
  spec.Strings("tokenizer.ggml.tokens", {"<|end|>", "a", "b", "Ġ", "ab", "Ġab", "<think>"});
  spec.Ints("tokenizer.ggml.token_type", {3, 1, 1, 1, 1, 1, 4});
  spec.Strings("tokenizer.ggml.merges", {"a b", "Ġ ab"});
  spec.Uint32("tokenizer.ggml.eos_token_id", 0);
  return spec;
}

GgufSpec PieceSpec() {
  GgufSpec spec;
  spec.String("general.architecture", "llama");
  spec.String("tokenizer.ggml.model", "llama");
  spec.Strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁ab"});
  spec.Ints("tokenizer.ggml.token_type", {2, 3, 3, 1, 1, 1, 1, 1});
  spec.Floats("tokenizer.ggml.scores", {0, 0, 0, -9, -9, -9, -1, -2});
  spec.Uint32("tokenizer.ggml.bos_token_id", 1);
  spec.Uint32("tokenizer.ggml.eos_token_id", 2);
  spec.Uint32("tokenizer.ggml.unknown_token_id", 0);
  return spec;
}

Result<std::unique_ptr<Tokenizer>> Load(const GgufSpec& spec) {
  const std::string path = StrCat(testing::TempDir(), "/echelon-tokenizer-", getpid(), ".gguf");
  std::ofstream(path, std::ios::binary) << spec.Build();
  auto tokenizer = LoadTokenizer(path);
  std::remove(path.c_str());
  return tokenizer;
}

TEST(TokenizerGguf, ReadsByteLevelVocabularies) {
  GgufSpec spec = ByteSpec();
  auto t = Load(spec);
  ASSERT_TRUE(t.ok()) << t.error().message;
  EXPECT_EQ((*t)->Encode("ab ab<|end|><think>"), (Ids{4, 5, 0, 6}));
  EXPECT_TRUE((*t)->IsSpecial(0));
  EXPECT_FALSE((*t)->IsSpecial(6));  // user-defined: found whole, but text
  EXPECT_EQ((*t)->end_ids(), Ids{0});
  EXPECT_EQ((*t)->bos_id(), -1);
  spec.Uint32("tokenizer.ggml.bos_token_id", 0);
  EXPECT_EQ((*Load(spec))->Encode("a"), Ids{1});
  spec.At("tokenizer.ggml.pre").bytes = GgufText("llama-bpe");  // adds it unless told otherwise
  EXPECT_EQ((*Load(spec))->Encode("a"), (Ids{0, 1}));
  spec.Bool("tokenizer.ggml.add_bos_token", false);
  spec.Uint32("tokenizer.ggml.eot_token_id", 6);
  EXPECT_EQ((*Load(spec))->Encode("a"), Ids{1});
  EXPECT_EQ((*Load(spec))->end_ids(), (Ids{0, 6}));
}

TEST(TokenizerGguf, ReadsSentencePieceVocabularies) {
  GgufSpec spec = PieceSpec();
  auto t = Load(spec);
  ASSERT_TRUE(t.ok()) << t.error().message;
  EXPECT_EQ((*t)->Encode("ab ab"), (Ids{1, 7, 7}));
  EXPECT_EQ((*t)->Decode(Ids{1, 7, 7}), "ab ab");
  spec.Bool("tokenizer.ggml.add_space_prefix", false);
  EXPECT_EQ((*Load(spec))->Encode("ab ab"), (Ids{1, 6, 7}));
  spec = PieceSpec();
  spec.At("general.architecture").bytes = GgufText("gemma3");
  EXPECT_EQ((*Load(spec))->Encode("ab ab"), (Ids{1, 6, 7}));
}

TEST(TokenizerGguf, RefusesBadInputNamingTheField) {
  const auto message = [](const GgufSpec& spec) {
    auto t = Load(spec);
    return t.ok() ? std::string("ok") : t.error().message;
  };
  const auto expect = [&](const GgufSpec& spec, const std::string& part) {
    EXPECT_NE(message(spec).find(part), std::string::npos) << part << "\n" << message(spec);
  };
  GgufSpec spec = ByteSpec();
  spec.At("tokenizer.ggml.model").bytes = GgufText("bert");
  expect(spec, "tokenizer.ggml.model: tokenizer \"bert\" is not known");
  spec = ByteSpec();
  spec.At("tokenizer.ggml.pre").bytes = GgufText("grok-2");
  expect(spec, "tokenizer.ggml.pre: pre-tokenizer \"grok-2\" is not known");
  spec = ByteSpec();
  spec.Remove("tokenizer.ggml.merges");
  expect(spec, "tokenizer.ggml.merges is missing");
  spec = ByteSpec();
  spec.Remove("tokenizer.ggml.tokens");
  expect(spec, "tokenizer.ggml.tokens");
  spec = ByteSpec();
  spec.Remove("tokenizer.ggml.token_type");
  spec.Ints("tokenizer.ggml.token_type", {1});
  expect(spec, "token_type has 1 elements for 7 tokens");
  spec = ByteSpec();
  spec.Remove("tokenizer.ggml.merges");
  spec.Strings("tokenizer.ggml.merges", {"a b", "ab"});
  expect(spec, "merges: entry 1");
  spec = ByteSpec();
  spec.Uint32("tokenizer.ggml.bos_token_id", 7);
  expect(spec, "bos_token_id = 7 is no token");
  spec = ByteSpec();
  spec.Int32("tokenizer.ggml.eot_token_id", -1);
  expect(spec, "eot_token_id = -1 is no token");
  spec = ByteSpec();
  spec.Remove("tokenizer.ggml.tokens");
  spec.Strings("tokenizer.ggml.tokens", {"\xFF", "a", "b", "Ġ", "ab", "Ġab", "x"});
  expect(spec, "token 0 is not UTF-8");
  spec = PieceSpec();
  spec.Remove("tokenizer.ggml.scores");
  expect(spec, "tokenizer.ggml.scores");
  spec.Floats("tokenizer.ggml.scores", {0, 0, NAN, -9, -9, -9, -1, -2});
  expect(spec, "scores: element 2 is not a number");
  spec.Remove("tokenizer.ggml.scores");
  spec.Floats("tokenizer.ggml.scores", {0});
  expect(spec, "1 scores for 8 tokens");
}

}  // namespace
}  // namespace echelon
