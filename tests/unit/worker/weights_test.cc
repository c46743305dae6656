#include "worker/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <limits>
#include <map>

#include "common/strings.h"
#include "tests/support/model_builder.h"

namespace echelon {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<Backend> Reference() {
  BackendOptions options;
  options.name = "reference";
  return MakeBackend(options).value();
}

// A checkpoint that hides or reshapes some of another's tensors.
class AlteredCheckpoint final : public Checkpoint {
 public:
  explicit AlteredCheckpoint(const Checkpoint& inner) : inner_(inner) {}
  const ModelConfig& config() const override { return inner_.config(); }
  const TensorInfo* Find(TensorRole role, int layer) const override {
    const auto it = altered.find({role, layer});
    if (it == altered.end()) return inner_.Find(role, layer);
    return it->second.rows == 0 ? nullptr : &it->second;
  }
  Status ReadRows(const TensorInfo& info, Range rows, Range cols,
                  std::span<std::byte> out) const override {
    if (++reads > reads_max) return Corrupt("the file is cut");
    return inner_.ReadRows(info, rows, cols, out);
  }
  std::string Fingerprint() const override { return "altered"; }
  uint64_t file_bytes() const override { return inner_.file_bytes(); }
  uint64_t bytes_read() const override { return inner_.bytes_read(); }

  std::map<std::pair<TensorRole, int>, TensorInfo> altered;  // rows 0: not there
  mutable std::atomic<int> reads = 0;
  int reads_max = std::numeric_limits<int>::max();

 private:
  const Checkpoint& inner_;
};

class WeightsTest : public ::testing::Test {
 protected:
  WeightsTest() {
    tiny_.n_heads = 6;
    tiny_.n_kv_heads = 3;
    tiny_.n_layers = 5;
    tiny_.tied = false;
    tiny_.format = TensorFormat::kBF16;
    checkpoint_ = TinyDummy(tiny_, folder_.path());
  }
  const ModelConfig& model() const { return checkpoint_->config(); }
  RankPart Part(int tp, int pp, int rank) const {
    ParallelLayout layout;
    layout.tp = tp;
    layout.pp = pp;
    return PartOf(model(), layout, rank);
  }

  TinyModel tiny_;
  ScratchFolder folder_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<Backend> backend_ = Reference();
};

constexpr uint64_t kPlenty = uint64_t{1} << 40;

TEST_F(WeightsTest, EveryRankHoldsItsShapes) {
  for (int rank = 0; rank < 6; ++rank) {
    const RankPart part = Part(2, 3, rank);
    const Weights w = LoadWeights(*checkpoint_, model(), part, kPlenty, *backend_).value();
    ASSERT_EQ(w.layers.size(), static_cast<size_t>(part.n_layers()));
    EXPECT_EQ(w.embedding != nullptr, part.first_stage);
    EXPECT_EQ(w.head != nullptr, part.last_stage);
    for (const LayerWeights& layer : w.layers) {
      EXPECT_EQ(layer.qkv->rows(), (part.heads() + 2 * part.kv_heads()) * model().head_dim);
      EXPECT_EQ(layer.qkv->cols(), model().d_model);
      EXPECT_EQ(layer.attention_out->rows(), model().d_model);
      EXPECT_EQ(layer.attention_out->cols(), part.heads() * model().head_dim);
      EXPECT_EQ(layer.gate_up->rows(), 2 * part.ff());
      EXPECT_EQ(layer.down->cols(), part.ff());
    }
  }
}

// Ranks read their own bytes and together the whole model: no matrix is read twice.
TEST_F(WeightsTest, TheRanksShareTheBytesOut) {
  const uint64_t one = WeightBytes(*checkpoint_, Part(1, 1, 0));
  uint64_t all = 0;
  for (int rank = 0; rank < 6; ++rank) {
    const uint64_t mine = WeightBytes(*checkpoint_, Part(3, 2, rank));
    EXPECT_LT(mine, one / 3);
    const uint64_t before = checkpoint_->bytes_read();
    ASSERT_TRUE(LoadWeights(*checkpoint_, model(), Part(3, 2, rank), kPlenty, *backend_).ok());
    EXPECT_EQ(checkpoint_->bytes_read() - before, mine);
    all += mine;
  }
  // Norms stand on each of three ranks: 11 vectors of 64 values in at most 4 bytes, twice more.
  EXPECT_GE(all, one);
  EXPECT_LE(all, one + 2 * 11 * 64 * 4);
}

TEST_F(WeightsTest, ProgressGoesUpToTheTotal) {
  uint64_t last = 0;
  uint64_t total = 0;
  const RankPart part = Part(2, 1, 1);
  const auto w =
      LoadWeights(*checkpoint_, model(), part, kPlenty, *backend_, [&](uint64_t done, uint64_t of) {
        EXPECT_GE(done, last);
        last = done;
        total = of;
      });
  ASSERT_TRUE(w.ok());
  EXPECT_EQ(last, total);
  EXPECT_EQ(total, WeightBytes(*checkpoint_, part));
}

TEST_F(WeightsTest, AModelThatDoesNotFitIsRefusedBeforeReading) {
  const AlteredCheckpoint counted(*checkpoint_);
  const RankPart part = Part(2, 2, 3);
  const uint64_t needed = WeightBytes(counted, part);
  const auto w = LoadWeights(counted, model(), part, needed - 1, *backend_);
  ASSERT_FALSE(w.ok());
  EXPECT_EQ(w.error().code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(w.error().rank, 3);
  EXPECT_THAT(w.error().message, HasSubstr("rank 3"));
  const std::string human = HumanBytes(static_cast<double>(needed));
  EXPECT_THAT(w.error().message,
              HasSubstr(StrCat("its weights need ", human, " and it has ", human, "; use more")));
  EXPECT_EQ(counted.reads, 0);
  EXPECT_TRUE(LoadWeights(counted, model(), part, needed, *backend_).ok());
}

// Rows are read while they are packed, by the backend's threads.
TEST_F(WeightsTest, AReadThatFailsWhilePackingIsTheError) {
  for (const char* name : {"reference", "auto"}) {
    const auto backend = MakeBackend({.name = name, .threads = 2}).value();
    for (const int reads : {0, 1, 5, 20}) {
      AlteredCheckpoint cut(*checkpoint_);
      cut.reads_max = reads;
      const auto w = LoadWeights(cut, model(), Part(1, 1, 0), kPlenty, *backend);
      ASSERT_FALSE(w.ok()) << name << ", " << reads;
      EXPECT_THAT(w.error().message, HasSubstr("the file is cut"));
    }
  }
}

TEST_F(WeightsTest, AMissingOrMisshapenTensorIsNamed) {
  AlteredCheckpoint altered(*checkpoint_);
  altered.altered[{TensorRole::kUp, 3}] = TensorInfo{};
  EXPECT_THAT(LoadWeights(altered, model(), Part(1, 1, 0), kPlenty, *backend_).error().message,
              HasSubstr("layer 3 has no tensor for its MLP up"));
  TensorInfo wide = *checkpoint_->Find(TensorRole::kUp, 3);
  wide.cols += 32;
  altered.altered[{TensorRole::kUp, 3}] = wide;
  EXPECT_THAT(LoadWeights(altered, model(), Part(1, 1, 0), kPlenty, *backend_).error().message,
              HasSubstr(StrCat("the configuration says ", model().d_ff, " x 64")));
  // Another stage does not read it.
  EXPECT_TRUE(LoadWeights(altered, model(), Part(1, 2, 0), kPlenty, *backend_).ok());
}

TEST_F(WeightsTest, ATiedHeadIsTheEmbeddingItself) {
  tiny_.tied = true;
  const ScratchFolder folder;
  const auto tied = TinyDummy(tiny_, folder.path());
  const Weights w = LoadWeights(*tied, tied->config(), Part(1, 1, 0), kPlenty, *backend_).value();
  EXPECT_EQ(w.head, w.embedding);
  const Weights last =
      LoadWeights(*tied, tied->config(), Part(1, 2, 1), kPlenty, *backend_).value();
  EXPECT_EQ(last.head->rows(), tied->config().vocab_size);
}

}  // namespace
}  // namespace echelon
