// The attention kernels of every instruction set that this machine has against their scalar twin,
// bit for bit: all kinds of cache, head sizes with and without tails, every size of a tile of query
// vectors, positions that begin and end anywhere, misaligned memory. What is not seen is NaN.

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <tuple>

#include "common/half.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/kernels.h"
#include "kernels/quant/quant.h"
#include "tests/unit/kernels/cpu_op_twins.h"
#include "tests/unit/kernels/ops_kit.h"

namespace echelon {
namespace {

using cpu::KvTileShape;
using test::RandomFloats;
using test::SameBits;
using test::SplitState;

constexpr KvType kTypes[] = {KvType::kF32, KvType::kF16, KvType::kQ8_0};
constexpr int kHeadDims[] = {2, 22, 32, 64, 80, 96, 128, 256};
constexpr float kScale = 0.21f, kUntouched = 1234.5f;

// The tiles of one split, `shift` bytes off any alignment.
class Tiles {
 public:
  Tiles(const KvTileShape& shape, int shift)
      : shape_(shape),
        bytes_(static_cast<size_t>(cpu::kSplitTiles * (shape.KeyBytes() + shape.ValueBytes()) +
                                   kGuard + shift),
               std::byte{0xff}),
        begin_(bytes_.data() + shift) {}
  void Store(const cpu::CpuKernels& kernels, int position, const float* key, const float* value) {
    const int tile = position / cpu::kTilePositions, lane = position % cpu::kTilePositions;
    kernels.store_key(shape_, key, begin_ + KeysAt(tile), lane);
    kernels.store_value(shape_, value, begin_ + ValuesAt(tile), lane);
  }
  cpu::KvTile At(int tile) const { return {begin_ + KeysAt(tile), begin_ + ValuesAt(tile)}; }
  bool GuardIntact() const {
    const auto* guard = bytes_.data() + bytes_.size() - kGuard;
    for (int i = 0; i < kGuard; ++i) {
      if (guard[i] != std::byte{0xff}) return false;
    }
    return true;
  }

 private:
  static constexpr int kGuard = 64;
  int64_t KeysAt(int tile) const { return tile * (shape_.KeyBytes() + shape_.ValueBytes()); }
  int64_t ValuesAt(int tile) const { return KeysAt(tile) + shape_.KeyBytes(); }

  KvTileShape shape_;
  std::vector<std::byte> bytes_;
  std::byte* begin_;
};

// What each vector sees; nothing where begin >= end.
using Seen = std::vector<std::pair<int, int>>;

class CpuAttention : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const auto kernels = cpu::ChooseKernels(GetParam());
    if (!kernels.ok()) GTEST_SKIP() << kernels.error().message;
    kernels_ = *kernels;
  }

  void ExpectTwin(KvType type, int dim, const Seen& seen, int shift) const {
    const KvTileShape shape = {type, dim};
    const int count = static_cast<int>(seen.size()), slot = shape.stride() + cpu::kSlotExtra;
    const auto keys = RandomFloats(kAttentionSplit * dim, 11 + dim, 2.0f);
    const auto values = RandomFloats(kAttentionSplit * dim, 12 + dim, 3.0f);
    const auto queries = RandomFloats(count * dim, 13 + dim, 2.0f);
    const int element = type == KvType::kF32 ? 4 : 2;
    Tiles tiles(shape, shift * element);
    for (const auto& [begin, end] : seen) {
      for (int p = begin; p < end; ++p) {
        tiles.Store(*kernels_, p, keys.data() + p * dim, values.data() + p * dim);
      }
    }
    EXPECT_TRUE(tiles.GuardIntact());
    std::vector<std::byte> packed(count * cpu::PackedQueryBytes(dim));
    std::vector<float> slots(static_cast<size_t>(count * slot + shift), kUntouched);
    cpu::SplitArgs args;
    args.shape = shape;
    args.scale = kScale;
    args.count = count;
    args.queries = packed.data();
    for (int tile = 0; tile < cpu::kSplitTiles; ++tile) args.tiles[tile] = tiles.At(tile);
    const float* rows[cpu::kQueriesAtOnce];
    for (int v = 0; v < count; ++v) {
      rows[v] = queries.data() + v * dim;
      std::tie(args.begins[v], args.ends[v]) = seen[v];
      args.slots[v] = slots.data() + shift + v * slot;
    }
    kernels_->pack_queries(shape, rows, count, packed.data());
    kernels_->attend_split(args);
    for (int v = 0; v < count; ++v)
      ExpectSlot(shape, rows[v], keys, values, seen[v], args.slots[v]);
  }

  static void ExpectSlot(const KvTileShape& shape, const float* query,
                         const std::vector<float>& keys, const std::vector<float>& values,
                         std::pair<int, int> seen, const float* slot) {
    SCOPED_TRACE("sees " + std::to_string(seen.first) + " to " + std::to_string(seen.second));
    if (seen.first >= seen.second) {
      for (int i = 0; i < shape.stride() + cpu::kSlotExtra; ++i) EXPECT_EQ(slot[i], kUntouched);
      return;
    }
    const int dim = shape.head_dim;
    const SplitState want = test::AttendTwin(shape.type, {query, static_cast<size_t>(dim)}, keys,
                                             values, seen.first, seen.second, kScale);
    EXPECT_TRUE(SameBits({slot, static_cast<size_t>(dim)}, want.sums));
    EXPECT_EQ(slot[shape.stride()], want.best);
    EXPECT_EQ(slot[shape.stride() + 1], want.total);
  }

  const cpu::CpuKernels* kernels_ = nullptr;
};

TEST_P(CpuAttention, EveryTileOfVectorsEqualsItsTwin) {
  for (const KvType type : kTypes) {
    for (int count = 1; count <= cpu::kQueriesAtOnce; ++count) {
      SCOPED_TRACE(std::to_string(static_cast<int>(type)) + " count " + std::to_string(count));
      ExpectTwin(type, 64, Seen(count, {0, kAttentionSplit}), count % 3);
      Seen chunk;  // as a prompt's rows see a split: each a position more than the one before
      for (int v = 0; v < count; ++v) chunk.push_back({0, 29 + v});
      ExpectTwin(type, 22, chunk, 1);
    }
  }
}

TEST_P(CpuAttention, HeadSizesAndTailsEqualTheirTwin) {
  std::mt19937 random(5);
  for (const KvType type : kTypes) {
    for (const int dim : kHeadDims) {
      for (int round = 0; round < 6; ++round) {
        Seen seen;
        for (int v = 0; v < 1 + 2 * round; ++v) {
          const int begin = static_cast<int>(random() % kAttentionSplit);
          seen.push_back({begin, begin + static_cast<int>(random() % (257 - begin))});
        }
        SCOPED_TRACE(std::to_string(static_cast<int>(type)) + " D " + std::to_string(dim) +
                     " round " + std::to_string(round));
        ExpectTwin(type, dim, seen, round % 4);
      }
    }
  }
}

// Vectors that see one position, the last one of a tile, two tiles' edge, nothing.
TEST_P(CpuAttention, EdgesOfWhatIsSeenEqualTheirTwin) {
  for (const KvType type : kTypes) {
    ExpectTwin(type, 64, {{0, 1}, {15, 16}, {255, 256}, {7, 7}, {16, 17}}, 0);
    ExpectTwin(type, 80, {{15, 17}, {240, 256}, {0, 0}, {3, 250}}, 1);
    ExpectTwin(type, 64, {{0, 0}, {0, 0}, {100, 130}}, 0);
  }
}

// The one position that is seen has weight 1: what comes out is the stored value.
TEST_P(CpuAttention, EveryFloat16NumberIsReadAndWritten) {
  const int dim = 16;
  const KvTileShape shape = {KvType::kF16, dim};
  const std::vector<float> zeros(dim, 0.0f);
  for (uint32_t first = 0; first < 0x10000u; first += dim) {
    // Each number, and one just off it: stored as the nearest, ties to even.
    for (const uint32_t off : {0u, 0x0fffu, 0x1000u, 0x1001u}) {
      std::vector<float> values;
      for (uint32_t i = 0; i < dim; ++i) {
        const float value = HalfToFloat(static_cast<uint16_t>(first + i));
        values.push_back(std::isfinite(value)
                             ? std::bit_cast<float>(std::bit_cast<uint32_t>(value) + off)
                             : 65504.0f);
      }
      Tiles tiles(shape, 0);
      tiles.Store(*kernels_, 0, zeros.data(), values.data());
      const auto* stored = static_cast<const uint16_t*>(tiles.At(0).values);
      for (int i = 0; i < dim; ++i) ASSERT_EQ(stored[i], FloatToHalf(values[i])) << values[i];
      cpu::SplitArgs args;
      args.shape = shape;
      args.count = 1;
      args.tiles[0] = tiles.At(0);
      float slot[dim + cpu::kSlotExtra];
      args.queries = reinterpret_cast<const std::byte*>(zeros.data());
      args.begins[0] = 0;
      args.ends[0] = 1;
      args.slots[0] = slot;
      kernels_->attend_split(args);
      for (int i = 0; i < dim; ++i) {
        ASSERT_EQ(slot[i] + 0.0f, HalfToFloat(FloatToHalf(values[i])) + 0.0f);
      }
    }
  }
}

// Blocks of all sizes of numbers, down to scales that float16 has no normal numbers for.
TEST_P(CpuAttention, CodesAreThoseOfTheBlockFormat) {
  const int dim = 32;
  const KvTileShape shape = {KvType::kQ8_0, dim};
  for (int exponent = -40; exponent < 20; ++exponent) {
    auto vector = RandomFloats(dim, 500 + exponent, std::ldexp(1.0f, exponent));
    vector[3] = std::ldexp(exponent % 2 == 0 ? 1.0f : -1.0f, exponent);
    std::byte block[34];
    ASSERT_TRUE(QuantizeRow(TensorFormat::kQ8_0, vector.data(), dim, block));
    Tiles tiles(shape, exponent & 1);
    for (int lane = 0; lane < cpu::kTilePositions; ++lane) {
      tiles.Store(*kernels_, lane, vector.data(), vector.data());
    }
    const auto* keys = static_cast<const std::byte*>(tiles.At(0).keys);
    const auto* values = static_cast<const std::byte*>(tiles.At(0).values);
    for (int lane = 0; lane < cpu::kTilePositions; ++lane) {
      for (int d = 0; d < dim; ++d) {
        ASSERT_EQ(keys[shape.KeyCode(d, lane)], block[2 + d]) << exponent;
        ASSERT_EQ(values[shape.ValueCode(d, lane)], block[2 + d]) << exponent;
      }
      ASSERT_EQ(LoadU16(keys + shape.KeyScales() + 2 * lane), LoadU16(block));
      ASSERT_EQ(LoadU16(values + shape.ValueScales() + 2 * lane), LoadU16(block));
    }
  }
}

TEST_P(CpuAttention, MergesEqualTheirTwin) {
  for (const int stride : {16, 64, 96, 256}) {
    for (int count = 1; count <= 16; ++count) {
      const int slot = stride + cpu::kSlotExtra, shift = count % 4;
      auto state = RandomFloats(count * slot + shift, 20 + count, 30.0f);
      const auto later = RandomFloats(count * slot + shift, 40 + count, 30.0f);
      std::vector<SplitState> want;
      float* slots[16];
      const float* others[16];
      const auto read = [&](const float* from) {
        return SplitState{{from, from + stride}, from[stride], from[stride + 1]};
      };
      for (int v = 0; v < count; ++v) {
        slots[v] = state.data() + shift + v * slot;
        others[v] = later.data() + shift + v * slot;
        want.push_back(test::MergeTwin(read(slots[v]), read(others[v])));
      }
      kernels_->merge_splits(slots, others, count, stride);
      for (int v = 0; v < count; ++v) {
        const SplitState got = read(slots[v]);
        EXPECT_TRUE(SameBits(got.sums, want[v].sums)) << stride << " " << count;
        EXPECT_EQ(got.best, want[v].best);
        EXPECT_EQ(got.total, want[v].total);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, CpuAttention, testing::Values("avx2", "avxvnni", "avx512"),
                         [](const auto& param) { return std::string(param.param); });

}  // namespace
}  // namespace echelon
