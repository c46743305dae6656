#include "common/model/checkpoint.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "common/half.h"
#include "common/model/tensor_names.h"
#include "tests/support/model_builder.h"

namespace echelon {
namespace {

std::vector<std::byte> Whole(const Checkpoint& checkpoint, TensorRole role, int layer) {
  const TensorInfo* info = checkpoint.Find(role, layer);
  if (info == nullptr) return {};
  return checkpoint.Read(*info, {0, info->rows}, {0, info->cols}).value().bytes;
}

void ExpectSameSizes(const ModelConfig& a, const ModelConfig& b) {
  EXPECT_EQ(a.family, b.family);
  EXPECT_EQ(a.d_model, b.d_model);
  EXPECT_EQ(a.n_heads, b.n_heads);
  EXPECT_EQ(a.n_kv_heads, b.n_kv_heads);
  EXPECT_EQ(a.head_dim, b.head_dim);
  EXPECT_EQ(a.d_ff, b.d_ff);
  EXPECT_EQ(a.vocab_size, b.vocab_size);
  EXPECT_EQ(a.context_max, b.context_max);
  EXPECT_EQ(a.norm_eps, b.norm_eps);
  EXPECT_EQ(a.qkv_bias, b.qkv_bias);
  EXPECT_EQ(a.qk_norm, b.qk_norm);
  EXPECT_EQ(a.post_norms, b.post_norms);
  EXPECT_EQ(a.activation, b.activation);
  EXPECT_EQ(a.attention_scale, b.attention_scale);
  EXPECT_EQ(a.embedding_scale, b.embedding_scale);
  EXPECT_EQ(a.tied_embeddings, b.tied_embeddings);
  ASSERT_EQ(a.n_layers(), b.n_layers());
  for (int i = 0; i < a.n_layers(); ++i) {
    EXPECT_EQ(a.layers[i].window, b.layers[i].window) << i;
    EXPECT_EQ(a.layers[i].rope_theta, b.layers[i].rope_theta) << i;
  }
}

TinyModel Family(const std::string& name) {
  TinyModel model{.family = name, .n_layers = 7};
  if (name == "gemma3") model.n_kv_heads = 1;
  return model;
}

class EveryFamily : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Families, EveryFamily,
                         testing::Values("llama", "mistral", "qwen2", "qwen3", "gemma3",
                                         "llamaLadder"),
                         [](const auto& info) { return std::string(info.param); });

// A folder of one file and one of three parts hold what the dummy of the same seed makes.
TEST_P(EveryFamily, SafetensorsHoldTheDummysNumbers) {
  for (const bool tied : {true, false}) {
    for (const int parts : {1, 3}) {
      TinyModel model = Family(GetParam());
      model.format = parts == 1 ? TensorFormat::kF32 : TensorFormat::kBF16;
      model.tied = tied;
      const ScratchFolder folder;
      WriteTinySafetensors(model, folder.path(), parts);
      const auto dummy = TinyDummy(model, folder.path());
      auto opened = OpenCheckpoint(folder.path());
      ASSERT_TRUE(opened.ok()) << opened.error().message;
      const Checkpoint& file = **opened;
      ExpectSameSizes(file.config(), dummy->config());
      uint64_t bytes = 0;
      for (int r = 0; r < kTensorRoles; ++r) {
        const auto role = static_cast<TensorRole>(r);
        for (int layer = 0; layer < (IsGlobal(role) ? 1 : model.n_layers); ++layer) {
          const auto data = Whole(file, role, layer);
          EXPECT_EQ(data, Whole(*dummy, role, layer)) << r << " layer " << layer;
          bytes += data.size();
        }
      }
      EXPECT_EQ(file.bytes_read(), bytes);
      EXPECT_GT(file.file_bytes(), bytes);
      EXPECT_EQ(file.Find(TensorRole::kLmHead, 0) == nullptr, tied);
    }
  }
}

class EveryGgufFamily : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Families, EveryGgufFamily,
                         testing::Values("llama", "mistral", "qwen2", "qwen3", "gemma3"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(EveryGgufFamily, HasTheSameConfigurationInItsOwnOrder) {
  const TinyModel model = Family(GetParam());
  const ScratchFolder folder;
  const auto dummy = TinyDummy(model, folder.path());
  auto opened = OpenCheckpoint(WriteTinyGguf(model, folder / "m.gguf"));
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  const Checkpoint& file = **opened;
  ModelConfig want = dummy->config();
  // A Mistral file calls itself llama.
  const bool llama = model.family == "llama" || model.family == "mistral";
  if (llama) want.family = "llama";
  ExpectSameSizes(file.config(), want);
  EXPECT_FALSE(file.config().norm_plus_one);
  EXPECT_EQ(file.config().rope_pairs, llama ? RopePairs::kInterleaved : RopePairs::kHalves);
  EXPECT_EQ(Whole(file, TensorRole::kDown, 3), Whole(*dummy, TensorRole::kDown, 3));
  // Row 2 i of a head stands where row i stood, row 2 i + 1 where row i + head_dim / 2 did.
  const auto ours = Whole(file, TensorRole::kKey, 1), theirs = Whole(*dummy, TensorRole::kKey, 1);
  if (!llama) {
    EXPECT_EQ(ours, theirs);
    return;
  }
  const size_t row = static_cast<size_t>(model.d_model) * sizeof(float);
  EXPECT_EQ(0, std::memcmp(&ours[3 * row], &theirs[(1 + 8) * row], row));
  EXPECT_EQ(0, std::memcmp(&ours[(16 + 2) * row], &theirs[(16 + 1) * row], row));
}

TEST(Checkpoint, GemmaNormsAreShiftedByOneInGguf) {
  const TinyModel model = Family("gemma3");
  const ScratchFolder folder;
  const auto dummy = TinyDummy(model, folder.path());
  ASSERT_TRUE(dummy->config().norm_plus_one);
  auto opened = OpenCheckpoint(WriteTinyGguf(model, folder / "m.gguf"));
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  float file = 0.0f, plain = 0.0f;
  std::memcpy(&file, &Whole(**opened, TensorRole::kPostMlpNorm, 2)[4], sizeof file);
  std::memcpy(&plain, &Whole(*dummy, TensorRole::kPostMlpNorm, 2)[4], sizeof plain);
  EXPECT_EQ(file, plain + 1.0f);
}

// Every format of the table: what a piece of rows and columns holds is what the whole holds there,
// with the columns widened to whole blocks.
TEST(Checkpoint, PiecesAgreeWithTheWhole) {
  for (const TensorFormatInfo& format : TensorFormats()) {
    const TinyModel model{.d_model = 512, .d_ff = 768, .format = format.format};
    const ScratchFolder folder;
    const auto dummy = TinyDummy(model, folder.path());
    auto opened = OpenCheckpoint(WriteTinyGguf(model, folder / "m.gguf"));
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    for (const Checkpoint* checkpoint : {opened->get(), dummy.get()}) {
      const TensorInfo& tensor = *checkpoint->Find(TensorRole::kDown, 1);
      EXPECT_EQ(tensor.format, format.format);
      const auto whole = Whole(*checkpoint, TensorRole::kDown, 1);
      for (const Range cols : {Range{0, 768}, Range{96, 384}, Range{330, 331}, Range{700, 768}}) {
        const TensorPiece piece = checkpoint->Read(tensor, {5, 9}, cols).value();
        EXPECT_LE(piece.stored_col_begin, cols.begin);
        EXPECT_GE(piece.stored_col_begin + piece.stored_cols, cols.end);
        EXPECT_LT(cols.begin - piece.stored_col_begin, format.block_elements);
        EXPECT_EQ(piece.stored_cols % format.block_elements, 0);
        EXPECT_EQ(piece.rows, 4);
        const int64_t skip = piece.stored_col_begin / format.block_elements * format.block_bytes;
        for (int64_t r = 0; r < piece.rows; ++r) {
          EXPECT_EQ(0, std::memcmp(&piece.bytes[r * piece.row_bytes],
                                   &whole[(5 + r) * tensor.row_bytes + skip], piece.row_bytes))
              << format.name << " row " << r << " column " << cols.begin;
        }
      }
    }
  }
}

TEST(Checkpoint, AnEmptyRangeReadsNothing) {
  const ScratchFolder folder;
  const auto dummy = TinyDummy({}, folder.path());
  const TensorInfo& tensor = *dummy->Find(TensorRole::kDown, 0);
  EXPECT_TRUE(dummy->Read(tensor, {0, 0}, {0, 96}).value().bytes.empty());
  EXPECT_TRUE(dummy->Read(tensor, {0, 64}, {96, 96}).value().bytes.empty());
  EXPECT_EQ(dummy->bytes_read(), 0u);
}

TEST(Checkpoint, DummiesDifferBySeedAndKeepTheirSize) {
  const ScratchFolder folder;
  const TinyModel one{.d_model = 256, .seed = 1}, two{.d_model = 256, .seed = 2};
  const auto a = TinyDummy(one, folder.path()), b = TinyDummy(two, folder.path());
  const auto again = TinyDummy(one, folder.path());
  const auto bytes = Whole(*a, TensorRole::kGate, 0);
  EXPECT_EQ(bytes, Whole(*again, TensorRole::kGate, 0));
  EXPECT_NE(bytes, Whole(*b, TensorRole::kGate, 0));
  EXPECT_NE(bytes, Whole(*a, TensorRole::kUp, 0));
  EXPECT_NE(bytes, Whole(*a, TensorRole::kGate, 1));
  EXPECT_EQ(a->Fingerprint(), again->Fingerprint());
  EXPECT_NE(a->Fingerprint(), b->Fingerprint());
  // 96 x 256 values of deviation 1/16: the mean's own deviation is 4e-4, that of the square 1e-5.
  double sum = 0.0, squares = 0.0;
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  for (const float v : values) sum += v, squares += v * v;
  EXPECT_NEAR(sum / values.size(), 0.0, 2e-3);
  EXPECT_NEAR(squares / values.size(), 1.0 / 256, 1e-4);
}

TEST(Checkpoint, FingerprintFollowsHeaderAndSize) {
  const ScratchFolder folder;
  GgufSpec spec = TinyGguf({});
  WriteFile(folder / "a.gguf", spec.Build());
  WriteFile(folder / "b.gguf", spec.Build());
  WriteFile(folder / "longer.gguf", spec.Build() + "x");
  spec.At("general.name").bytes = GgufText("another");
  WriteFile(folder / "c.gguf", spec.Build());
  const auto print = [&](const char* name) {
    return OpenCheckpoint(folder / name).value()->Fingerprint();
  };
  EXPECT_EQ(print("a.gguf").size(), 16u);
  EXPECT_EQ(print("a.gguf"), print("b.gguf"));
  EXPECT_NE(print("a.gguf"), print("c.gguf"));
  EXPECT_NE(print("a.gguf"), print("longer.gguf"));
}

// Stages and shards of tp = 2 together read every byte of every cut tensor once.
TEST(Checkpoint, ShardsReadTheirOwnBytes) {
  const TinyModel model{.format = TensorFormat::kQ8_0};
  const ScratchFolder folder;
  const std::string path = WriteTinyGguf(model, folder / "m.gguf");
  uint64_t cut_bytes = 0, read = 0;
  for (int rank = 0; rank < 2; ++rank) {
    auto checkpoint = OpenCheckpoint(path).value();
    const ModelConfig& config = checkpoint->config();
    const TensorShard shard = ShardOf(config, {.tp = 2}, rank);
    for (const TensorRole role :
         {TensorRole::kEmbedding, TensorRole::kQuery, TensorRole::kKey, TensorRole::kAttentionOut,
          TensorRole::kGate, TensorRole::kDown}) {
      const TensorInfo& tensor = *checkpoint->Find(role, 0);
      const ShardSpec spec = SpecOf(config, shard, role);
      const Range rows = spec.by_rows ? spec.range : Range{0, tensor.rows};
      const Range cols = spec.by_columns ? spec.range : Range{0, tensor.cols};
      ASSERT_TRUE(checkpoint->Read(tensor, rows, cols).ok());
      if (rank == 0) cut_bytes += static_cast<uint64_t>(tensor.rows * tensor.row_bytes);
    }
    read += checkpoint->bytes_read();
  }
  EXPECT_EQ(read, cut_bytes);
}

TEST(Half, RoundsToNearestEven) {
  EXPECT_EQ(FloatToHalf(0.0f), 0x0000);
  EXPECT_EQ(FloatToHalf(1.0f), 0x3c00);
  EXPECT_EQ(FloatToHalf(-2.0f), 0xc000);
  EXPECT_EQ(FloatToHalf(65504.0f), 0x7bff);
  EXPECT_EQ(FloatToHalf(1e6f), 0x7c00);
  EXPECT_EQ(FloatToHalf(std::ldexp(1.0f, -24)), 0x0001);
  EXPECT_EQ(FloatToHalf(std::ldexp(1.0f, -26)), 0x0000);
  EXPECT_EQ(FloatToHalf(std::ldexp(1023.0f, -24)), 0x03ff);
  EXPECT_EQ(FloatToHalf(1.0f + std::ldexp(1.0f, -11)), 0x3c00);         // a tie: to even
  EXPECT_EQ(FloatToHalf(1.0f + 3.0f * std::ldexp(1.0f, -11)), 0x3c02);  // a tie: to even
}

}  // namespace
}  // namespace echelon
