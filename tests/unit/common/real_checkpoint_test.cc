// The two real checkpoints, where this machine has them.

#include <gtest/gtest.h>

#include "common/model/checkpoint.h"
#include "common/model/tensor_names.h"
#include "tests/support/test_models.h"

namespace echelon {
namespace {

std::unique_ptr<Checkpoint> OpenReal(const char* name) {
  const std::string path = TestModelPath(name);
  if (path.empty()) return nullptr;
  auto opened = OpenCheckpoint(path);
  EXPECT_TRUE(opened.ok()) << opened.error().message;
  return opened.ok() ? std::move(opened).value() : nullptr;
}

TEST(RealCheckpoint, SmolLm2) {
  const auto checkpoint = OpenReal(kSmolModel);
  if (checkpoint == nullptr) GTEST_SKIP() << "no " << kSmolModel;
  const ModelConfig& config = checkpoint->config();
  EXPECT_EQ(config.family, "llama");
  EXPECT_EQ(config.d_model, 576);
  EXPECT_EQ(config.n_layers(), 30);
  EXPECT_EQ(config.n_heads, 9);
  EXPECT_EQ(config.n_kv_heads, 3);
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_EQ(config.d_ff, 1536);
  EXPECT_EQ(config.vocab_size, 49152);
  EXPECT_EQ(config.context_max, 8192);
  EXPECT_EQ(config.norm_eps, 1e-5f);
  EXPECT_EQ(config.attention_scale, 0.125f);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(config.rope_pairs, RopePairs::kInterleaved);
  EXPECT_EQ(config.layers[29].rope_theta, 100000.0);
  EXPECT_EQ(config.layers[29].window, 0);
  EXPECT_EQ(checkpoint->Find(TensorRole::kEmbedding, 0)->format, TensorFormat::kQ8_0);
  EXPECT_EQ(checkpoint->Find(TensorRole::kGate, 7)->format, TensorFormat::kQ4_1);
}

TEST(RealCheckpoint, Gemma3) {
  const auto checkpoint = OpenReal(kGemmaModel);
  if (checkpoint == nullptr) GTEST_SKIP() << "no " << kGemmaModel;
  const ModelConfig& config = checkpoint->config();
  EXPECT_EQ(config.family, "gemma3");
  EXPECT_EQ(config.d_model, 640);
  EXPECT_EQ(config.n_layers(), 18);
  EXPECT_EQ(config.n_heads, 4);
  EXPECT_EQ(config.n_kv_heads, 1);
  EXPECT_EQ(config.head_dim, 256);
  EXPECT_EQ(config.d_ff, 2048);
  EXPECT_EQ(config.vocab_size, 262144);
  EXPECT_EQ(config.norm_eps, 1e-6f);
  EXPECT_EQ(config.attention_scale, 0.0625f);
  EXPECT_FLOAT_EQ(config.embedding_scale, 25.298221f);
  EXPECT_EQ(config.activation, Activation::kGeluTanh);
  EXPECT_TRUE(config.qk_norm && config.post_norms && config.tied_embeddings);
  EXPECT_FALSE(config.norm_plus_one);
  for (int i = 0; i < 18; ++i) {
    const bool full = i % 6 == 5;
    EXPECT_EQ(config.layers[i].window, full ? 0 : 512);
    EXPECT_EQ(config.layers[i].rope_theta, full ? 1e6 : 1e4);
  }
}

// The ranks of tp = 2 read every byte of every tensor once: norms are read by both, a tensor cut by
// columns at a place inside a block has that block read by both neighbours, and so have the KV
// heads that two ranks share.
TEST(RealCheckpoint, TwoShardsReadEveryByteOnce) {
  for (const char* name : {kSmolModel, kGemmaModel}) {
    if (TestModelPath(name).empty()) GTEST_SKIP() << "no " << name;
    uint64_t read = 0, stored = 0, twice = 0;
    for (int rank = 0; rank < 2; ++rank) {
      const auto checkpoint = OpenReal(name);
      ASSERT_NE(checkpoint, nullptr);
      const ModelConfig& config = checkpoint->config();
      const TensorShard shard = ShardOf(config, {.tp = 2}, rank);
      for (int slot = 0; slot < config.n_layers() * kTensorRoles; ++slot) {
        const auto role = static_cast<TensorRole>(slot % kTensorRoles);
        const int layer = slot / kTensorRoles;
        const TensorInfo* tensor = checkpoint->Find(role, layer);
        if (tensor == nullptr || (IsGlobal(role) && layer > 0)) continue;
        const ShardSpec spec = SpecOf(config, shard, role);
        const Range rows = spec.by_rows ? spec.range : Range{0, tensor->rows};
        const Range cols = spec.by_columns ? spec.range : Range{0, tensor->cols};
        auto piece = checkpoint->Read(*tensor, rows, cols);
        ASSERT_TRUE(piece.ok()) << piece.error().message;
        if (rank == 1) continue;
        const auto all = static_cast<uint64_t>(tensor->rows * tensor->row_bytes);
        stored += all;
        const bool shared_kv =
            config.n_kv_heads == 1 && (role == TensorRole::kKey || role == TensorRole::kValue);
        if ((!spec.by_rows && !spec.by_columns) || shared_kv) twice += all;
        // The cut of the two ranks, in elements from the left.
        const TensorFormatInfo& format = InfoOf(tensor->format);
        if (spec.by_columns && cols.end % format.block_elements != 0) {
          twice += static_cast<uint64_t>(tensor->rows * format.block_bytes);
        }
      }
      read += checkpoint->bytes_read();
    }
    EXPECT_EQ(read, stored + twice) << name;
    EXPECT_LT(twice, stored / 50) << name;
  }
}

}  // namespace
}  // namespace echelon
