#include "worker/kv_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/strings.h"

namespace echelon {
namespace {

ModelConfig Model() {
  ModelConfig model;
  model.d_model = 64;
  model.n_heads = 8;
  model.n_kv_heads = 4;
  model.head_dim = 8;
  model.d_ff = 128;
  model.vocab_size = 256;
  model.layers.resize(6);
  return model;
}

TEST(SizeKvCache, FillsTheMemoryWithWholePages) {
  ParallelLayout layout;
  layout.tp = 2;
  layout.pp = 2;
  const RankPart part = PartOf(Model(), layout, 0);
  KvSettings settings;
  settings.page_tokens = 16;
  settings.type = KvType::kF16;
  settings.context_max = 4096;
  // A page of this rank: keys and values, 3 layers, 16 tokens, 2 KV heads of 8, 2 bytes.
  const uint64_t page_bytes = 2ull * part.n_layers() * 16 * 2 * 8 * 2;
  settings.memory_bytes = 100 * page_bytes + page_bytes - 1;
  const KvShape shape = SizeKvCache(Model(), part, settings).value();
  EXPECT_EQ(shape.PageBytes(), page_bytes);
  EXPECT_EQ(shape.pages, 100);
  EXPECT_EQ(shape.kv_heads, 2);
  EXPECT_EQ(shape.layers, part.n_layers());
}

// Two blocks of codes and a float16 scale each for a head of 40: 44 bytes where float16 takes 80.
TEST(SizeKvCache, CodesTakeLessThanFloats) {
  ModelConfig model = Model();
  model.head_dim = 40;
  KvSettings settings;
  settings.context_max = 1 << 20;
  settings.memory_bytes = uint64_t{1} << 30;
  const RankPart part = PartOf(model, {}, 0);
  const KvShape floats = SizeKvCache(model, part, settings).value();
  settings.type = KvType::kQ8_0;
  const KvShape codes = SizeKvCache(model, part, settings).value();
  EXPECT_EQ(floats.VectorBytes(), 80u);
  EXPECT_EQ(codes.VectorBytes(), 44u);
  EXPECT_EQ(codes.PageBytes() * 80, floats.PageBytes() * 44);
  EXPECT_NEAR(static_cast<double>(codes.pages) / floats.pages, 80.0 / 44.0, 1e-3);
}

TEST(SizeKvCache, TakesNoMoreThanTheSequencesCanUse) {
  KvSettings settings;
  settings.page_tokens = 16;
  settings.context_max = 100;  // 7 pages
  settings.sequences_max = 5;
  settings.memory_bytes = uint64_t{1} << 40;
  EXPECT_EQ(SizeKvCache(Model(), PartOf(Model(), {}, 0), settings)->pages, 35);
}

TEST(SizeKvCache, SaysWhatOnePageNeeds) {
  KvSettings settings;
  settings.context_max = 100;
  settings.memory_bytes = 1000;
  for (const char* device : {"", "CUDA device 0 (A)"}) {
    settings.device = device;
    const auto result = SizeKvCache(Model(), PartOf(Model(), {}, 0), settings);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, ErrorCode::kResourceExhausted);
    EXPECT_EQ(
        result.error().message,
        StrCat("rank 0: one KV page of 16 tokens needs 12.3 kB and the ring 0 B, the KV memory",
               *device == '\0' ? "" : " of CUDA device 0 (A)",
               " is 1.0 kB; raise worker.kv_memory_bytes or use more ranks"));
  }
  settings.step_bytes = 3'000'000;
  EXPECT_THAT(SizeKvCache(Model(), PartOf(Model(), {}, 0), settings).error().message,
              ::testing::EndsWith("the KV memory of CUDA device 0 (A) is 1.0 kB, what is free but "
                                  "for 3.0 MB of its steps; lower scheduler.step_tokens_max or use "
                                  "more ranks"));
}

}  // namespace
}  // namespace echelon
