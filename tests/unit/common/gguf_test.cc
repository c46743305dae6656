#include "common/model/gguf.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

#include "common/strings.h"
#include "tests/support/clean_error.h"
#include "tests/support/model_builder.h"

namespace echelon {
namespace {

GgufSpec SmallSpec() {
  GgufSpec spec;
  spec.String("general.architecture", "llama");
  spec.Uint32("a.uint", 7);
  spec.Int32("a.int", -7);
  spec.Float32("a.float", 0.5f);
  spec.Bool("a.bool", true);
  spec.Strings("a.texts", {"x", "", "yz"});
  spec.Floats("a.floats", {1.0f, 2.0f});
  spec.Ints("a.ints", {3, -4});
  spec.tensors.push_back({"one", {4, 2}, 0, std::string(32, 'a')});
  spec.tensors.push_back({"two", {32}, 8, std::string(34, 'b')});
  return spec;
}

class Gguf : public testing::Test {
 protected:
  Result<std::unique_ptr<GgufFile>> Open(std::string_view bytes) {
    WriteFile(path_, bytes);
    return GgufFile::Open(path_);
  }
  ScratchFolder folder_;
  std::string path_ = folder_ / "small.gguf";
};

TEST_F(Gguf, ReadsValuesOfEveryKind) {
  for (const uint32_t version : {2u, 3u}) {
    GgufSpec spec = SmallSpec();
    spec.version = version;
    auto file = Open(spec.Build());
    ASSERT_TRUE(file.ok()) << file.error().message;
    const GgufFile& gguf = **file;
    EXPECT_EQ(gguf.Integer("a.uint").value(), 7);
    EXPECT_EQ(gguf.Integer("a.int").value(), -7);
    EXPECT_EQ(gguf.Number("a.float").value(), 0.5);
    EXPECT_EQ(gguf.Number("a.int").value(), -7.0);
    EXPECT_TRUE(gguf.Bool("a.bool").value());
    EXPECT_EQ(gguf.String("general.architecture").value(), "llama");
    EXPECT_EQ(gguf.Strings("a.texts").value(), (std::vector<std::string_view>{"x", "", "yz"}));
    EXPECT_EQ(gguf.Floats("a.floats").value(), (std::vector<float>{1.0f, 2.0f}));
    EXPECT_EQ(gguf.Integers("a.ints").value(), (std::vector<int64_t>{3, -4}));
    EXPECT_FALSE(gguf.Has("a.other"));
  }
}

TEST_F(Gguf, PlacesTensors) {
  uint64_t data = 0;
  const std::string bytes = SmallSpec().Build(&data);
  auto file = Open(bytes);
  ASSERT_TRUE(file.ok()) << file.error().message;
  const auto& tensors = (*file)->tensors();
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(tensors[0].rows, 2);
  EXPECT_EQ(tensors[0].cols, 4);
  EXPECT_EQ(tensors[0].row_bytes, 16);
  EXPECT_EQ(tensors[0].offset, data);
  EXPECT_EQ(tensors[1].format, TensorFormat::kQ8_0);
  EXPECT_EQ(tensors[1].rows, 1);
  EXPECT_EQ(tensors[1].offset, data + 32);
}

TEST_F(Gguf, WrongKindsNameTheKey) {
  auto file = Open(SmallSpec().Build());
  ASSERT_TRUE(file.ok());
  const GgufFile& gguf = **file;
  ExpectCleanError(gguf.Integer("a.float"), path_, "a.float");
  ExpectCleanError(gguf.Integer("a.texts"), path_, "a.texts");
  ExpectCleanError(gguf.Bool("a.uint"), path_, "a.uint");
  ExpectCleanError(gguf.String("a.uint"), path_, "a.uint");
  ExpectCleanError(gguf.Strings("a.ints"), path_, "a.ints");
  ExpectCleanError(gguf.Floats("a.ints"), path_, "a.ints");
  ExpectCleanError(gguf.Integers("a.floats"), path_, "a.floats");
  ExpectCleanError(gguf.Integers("a.texts"), path_, "a.texts");
  ExpectCleanError(gguf.Number("none"), path_, "none");
}

struct Hostile {
  const char* name;
  void (*bend)(GgufSpec&);
  const char* field;
};

void SetKeyLength(GgufSpec& spec, uint64_t length) {
  // A key's length is where the text is; a text that carries another length is made by hand.
  spec.At("a.uint").bytes += RawBytes(length) + "key" + RawBytes(uint32_t{4}) + RawBytes(1u);
  spec.value_count = spec.values.size() + 1;
  std::swap(spec.At("a.uint"), spec.values.back());
}

constexpr uint64_t kAll = ~uint64_t{0};

using S = GgufSpec;
const Hostile kHostileFiles[] = {
    {"magic", [](S& s) { s.magic = "GGUG"; }, "GGUF"},
    {"version 0", [](S& s) { s.version = 0; }, "version"},
    {"version 1", [](S& s) { s.version = 1; }, "version"},
    {"version 4", [](S& s) { s.version = 4; }, "version"},
    {"version swapped", [](S& s) { s.version = 3u << 24; }, "big-endian"},
    {"tensors 2^64-1", [](S& s) { s.tensor_count = kAll; }, "tensor"},
    {"tensors 2^32", [](S& s) { s.tensor_count = uint64_t{1} << 32; }, "tensor"},
    {"one tensor more", [](S& s) { s.tensor_count = s.tensors.size() + 1; }, "tensor 2"},
    {"values 2^64-1", [](S& s) { s.value_count = kAll; }, "metadata"},
    {"values 2^32", [](S& s) { s.value_count = uint64_t{1} << 32; }, "metadata"},
    {"key length 2^64-1", [](S& s) { SetKeyLength(s, kAll); }, "metadata key"},
    {"key length 2^63", [](S& s) { SetKeyLength(s, uint64_t{1} << 63); }, "metadata key"},
    {"key length 0", [](S& s) { s.At("a.uint").key = ""; }, "metadata key"},
    {"key too long", [](S& s) { s.At("a.uint").key = std::string(300, 'k'); }, "metadata key"},
    {"key with newline", [](S& s) { s.At("a.uint").key = "a\nb"; }, "metadata key"},
    {"duplicate key", [](S& s) { s.Uint32("a.int", 1); }, "a.int"},
    {"unknown type", [](S& s) { s.At("a.uint").type = 13; }, "a.uint"},
    {"type 2^32-1", [](S& s) { s.At("a.uint").type = ~0u; }, "a.uint"},
    {"bool 2", [](S& s) { s.At("a.bool").bytes = "\2"; }, "a.bool"},
    {"array of array", [](S& s) { s.Array("n", GgufType::kArray, 1, ""); }, "n"},
    {"array of unknown", [](S& s) { s.Array("n", GgufType{99}, 1, ""); }, "n"},
    {"array wrap 8 bytes",
     [](S& s) { s.Array("n", GgufType::kUint64, (uint64_t{1} << 61) + 1, "12345678"); }, "n"},
    {"array 2^64-1", [](S& s) { s.Array("n", GgufType::kUint8, kAll, ""); }, "n"},
    {"texts 2^64-1", [](S& s) { s.Array("n", GgufType::kString, kAll, ""); }, "n"},
    {"texts past the end", [](S& s) { s.Array("n", GgufType::kString, 1 << 20, ""); }, "n"},
    {"text past the end",
     [](S& s) { s.At("general.architecture").bytes = RawBytes(uint64_t{1} << 40); },
     "general.architecture"},
    {"text 2^64-1", [](S& s) { s.At("general.architecture").bytes = RawBytes(kAll); },
     "general.architecture"},
    {"alignment 0", [](S& s) { s.Uint32("general.alignment", 0); }, "general.alignment"},
    {"alignment 13", [](S& s) { s.Uint32("general.alignment", 13); }, "general.alignment"},
    {"alignment 2^31", [](S& s) { s.Uint32("general.alignment", 1u << 31); }, "general.alignment"},
    {"alignment typed int32", [](S& s) { s.Int32("general.alignment", 32); }, "general.alignment"},
    {"alignment a list", [](S& s) { s.Ints("general.alignment", {32}); }, "general.alignment"},
    {"no dimension", [](S& s) { s.TensorAt("one").sizes.clear(); }, "one"},
    {"5 dimensions",
     [](S& s) {
       s.TensorAt("one").sizes = {4, 2, 1, 1, 1};
     },
     "one"},
    {"size 0",
     [](S& s) {
       s.TensorAt("one").sizes = {4, 0};
     },
     "one"},
    {"columns 0",
     [](S& s) {
       s.TensorAt("one").sizes = {0, 4};
     },
     "one"},
    {"size -1",
     [](S& s) {
       s.TensorAt("one").sizes = {4, kAll};
     },
     "one"},
    {"columns -1",
     [](S& s) {
       s.TensorAt("one").sizes = {kAll, 2};
     },
     "one"},
    {"size 2^62",
     [](S& s) {
       s.TensorAt("one").sizes = {uint64_t{1} << 62, 4};
     },
     "one"},
    {"bytes wrap to 0",
     [](S& s) {
       s.TensorAt("one").sizes = {uint64_t{1} << 31, uint64_t{1} << 31};
     },
     "one"},
    {"product wraps to 8",
     [](S& s) {
       s.TensorAt("one").sizes = {8, (uint64_t{1} << 61) + 1};
     },
     "one"},
    {"padding wraps", [](S& s) { s.TensorAt("one").sizes = {kAll / 4}; }, "one"},
    {"ragged blocks", [](S& s) { s.TensorAt("two").sizes = {33}; }, "two"},
    {"unaligned offset", [](S& s) { s.TensorAt("two").offset = 33; }, "two"},
    {"offset 2^64-32", [](S& s) { s.TensorAt("two").offset = kAll - 31; }, "two"},
    {"offset past the end", [](S& s) { s.TensorAt("two").offset = 1 << 20; }, "two"},
    {"overlap", [](S& s) { s.TensorAt("two").offset = 0; }, "two"},
    {"overlap by size",
     [](S& s) {
       s.TensorAt("one").sizes = {4, 3};
     },
     "two"},
    {"duplicate tensor", [](S& s) { s.TensorAt("two").name = "one"; }, "one"},
    {"no name", [](S& s) { s.TensorAt("two").name = ""; }, "name of tensor 1"},
    {"name too long", [](S& s) { s.TensorAt("two").name = std::string(65, 'n'); },
     "name of tensor 1"},
    {"name of control characters", [](S& s) { s.TensorAt("two").name = "a\x1b[2J"; },
     "name of tensor 1"},
    {"unknown tensor type", [](S& s) { s.TensorAt("two").type = 4242; }, "two"},
    {"removed tensor type", [](S& s) { s.TensorAt("two").type = 4; }, "two"},
    {"data missing", [](S& s) { s.TensorAt("two").data = ""; }, "two"},
};

TEST_F(Gguf, HostileFilesAreCleanErrors) {
  for (const Hostile& hostile : kHostileFiles) {
    SCOPED_TRACE(hostile.name);
    GgufSpec spec = SmallSpec();
    hostile.bend(spec);
    ExpectCleanError(Open(spec.Build()), path_, hostile.field);
  }
}

TEST_F(Gguf, EveryTruncationIsACleanError) {
  const std::string bytes = SmallSpec().Build();
  const size_t end = bytes.size() - 30;  // the last tensor's padding may be missing
  for (size_t size = 0; size < end; ++size) {
    SCOPED_TRACE(size);
    ExpectCleanError(Open(std::string_view(bytes).substr(0, size)), path_, "");
  }
  EXPECT_TRUE(Open(std::string_view(bytes).substr(0, end)).ok());
}

// A whole model's file: the first 4 KiB byte by byte, then at each tensor's begin and end.
TEST_F(Gguf, EveryTruncationOfAModelIsACleanError) {
  const std::string bytes = TinyGguf({.d_model = 16, .n_layers = 1, .d_ff = 32}).Build();
  std::vector<size_t> sizes;
  for (size_t size = 0; size < 4096; ++size) sizes.push_back(size);
  WriteFile(path_, bytes);
  const auto whole = GgufFile::Open(path_).value();
  for (const TensorInfo& tensor : whole->tensors()) {
    sizes.push_back(tensor.offset);
    sizes.push_back(tensor.offset + static_cast<uint64_t>(tensor.rows * tensor.row_bytes) - 1);
  }
  std::sort(sizes.rbegin(), sizes.rend());
  for (const size_t size : sizes) {
    SCOPED_TRACE(size);
    ASSERT_EQ(::truncate(path_.c_str(), static_cast<off_t>(size)), 0);
    ExpectCleanError(OpenCheckpoint(path_), path_, "");
  }
}

// One flipped bit in every byte of the header: an error or a file, never a crash (the sanitizers
// see to the rest).
TEST_F(Gguf, EveryFlippedBitIsSurvived) {
  uint64_t header = 0;
  const std::string bytes = TinyGguf({.d_model = 16, .n_layers = 1, .d_ff = 32}).Build(&header);
  WriteFile(path_, bytes);
  const int descriptor = ::open(path_.c_str(), O_WRONLY);
  ASSERT_GE(descriptor, 0);
  int refused = 0;
  for (uint64_t at = 0; at < header; ++at) {
    const char flipped = static_cast<char>(bytes[at] ^ (1 << (at * 5 % 8)));
    ASSERT_EQ(::pwrite(descriptor, &flipped, 1, static_cast<off_t>(at)), 1);
    auto opened = OpenCheckpoint(path_);
    if (!opened.ok()) {
      ++refused;
      ExpectCleanError(opened, path_, "");
    }
    ASSERT_EQ(::pwrite(descriptor, &bytes[at], 1, static_cast<off_t>(at)), 1);
  }
  ::close(descriptor);
  EXPECT_GT(refused, 1000);
  EXPECT_TRUE(OpenCheckpoint(path_).ok());
}

TEST_F(Gguf, MemoryStaysBelowFileAnd64MiB) {
  GgufSpec texts;  // as many empty texts as are allowed, and as many values
  texts.Array("n", GgufType::kString, kGgufStringsMax, std::string(8 * kGgufStringsMax, '\0'));
  for (uint64_t i = 1; i < kGgufValuesMax; ++i) texts.Uint32(StrCat("k", i), 0);
  GgufSpec tensors;
  for (uint64_t i = 0; i < kGgufTensorsMax; ++i) {
    tensors.tensors.push_back({StrCat("t", i), {1}, 0, "abcd"});
  }
  for (const GgufSpec* spec : {&texts, &tensors}) {
    const std::string bytes = spec->Build();
    WriteFile(path_, bytes);
    const uint64_t grown = PeakGrowth([&] {
      auto file = GgufFile::Open(path_);
      ASSERT_TRUE(file.ok()) << file.error().message;
      if ((*file)->Has("n")) {
        EXPECT_EQ((*file)->Strings("n").value().size(), kGgufStringsMax);
      }
    });
    EXPECT_TRUE(!kMemoryIsOurs || grown < bytes.size() + (64u << 20)) << grown;
  }
}

TEST_F(Gguf, OnlyRegularFilesAreOpened) {
  ExpectCleanError(GgufFile::Open(folder_.path()), folder_.path(), "regular file");
  ExpectCleanError(GgufFile::Open("/dev/zero"), "/dev/zero", "regular file");
  ExpectCleanError(GgufFile::Open(folder_ / "none"), "none", "No such file");
  ASSERT_EQ(::symlink("loop", (folder_ / "loop").c_str()), 0);
  ExpectCleanError(GgufFile::Open(folder_ / "loop"), "loop", "");
}

}  // namespace
}  // namespace echelon
