#include "common/model/safetensors.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "common/strings.h"
#include "tests/support/clean_error.h"
#include "tests/support/model_builder.h"

namespace echelon {
namespace {

class Safetensors : public testing::Test {
 protected:
  Result<SafetensorsFile> Open(std::string_view header, uint64_t data_bytes) {
    WriteFile(path_, SafetensorsBytes(header, std::string(data_bytes, 'd')));
    return SafetensorsFile::Open(path_);
  }
  ScratchFolder folder_;
  std::string path_ = folder_ / "model.safetensors";
};

TEST_F(Safetensors, ReadsTensorsAndMetadata) {
  auto file = Open(R"({"__metadata__":{"format":"pt"},)"
                   R"("b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
                   R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                   R"("empty":{"dtype":"F16","shape":[0,5],"data_offsets":[4,4]},)"
                   R"("scalar":{"dtype":"I64","shape":[],"data_offsets":[16,24]}}   )",
                   24);
  ASSERT_TRUE(file.ok()) << file.error().message;
  ASSERT_EQ(file->tensors.size(), 4u);
  const SafetensorsTensor& b = file->tensors[0];
  EXPECT_EQ(b.info.name, "b");
  EXPECT_EQ(b.info.rows, 2);
  EXPECT_EQ(b.info.cols, 3);
  EXPECT_EQ(b.info.row_bytes, 6);
  EXPECT_EQ(b.info.format, TensorFormat::kBF16);
  EXPECT_EQ(b.info.offset, 8 + file->header.size() + 4);
  EXPECT_FALSE(file->tensors[3].readable);
}

struct Hostile {
  const char* name;
  const char* header;
  uint64_t data_bytes;
  const char* field;
};
constexpr Hostile kHostile[] = {
    {"no object", "[1,2,3]", 0, "header"},
    {"text", "hello world", 0, "header"},
    {"not JSON", "{\"a\"", 0, "header"},
    {"invalid UTF-8", "{\"\xff\":1}", 0, "header"},
    {"duplicate key",
     R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
     8, "a"},
    {"duplicate member", R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
     4, "dtype"},
    {"entry no object", R"({"a":[1]})", 4, "a"},
    {"no dtype", R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, "dtype"},
    {"unknown dtype", R"({"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})", 4, "dtype"},
    {"dtype a number", R"({"a":{"dtype":1,"shape":[1],"data_offsets":[0,4]}})", 4, "dtype"},
    {"no shape", R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, "shape"},
    {"shape wraps to 4",
     R"({"a":{"dtype":"F32","shape":[4194305,4194305,211106198978564],"data_offsets":[0,4]}})", 4,
     "a"},
    {"shape wraps with bytes",
     R"({"a":{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}})", 4, "a"},
    {"shape negative", R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "shape"},
    {"shape 2^64", R"({"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}})",
     4, "shape"},
    {"shape float", R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4, "shape"},
    {"shape of 9", R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})", 4,
     "shape"},
    {"offsets reversed", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4,
     "data_offsets"},
    {"offsets negative", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}})", 4,
     "data_offsets"},
    {"offsets float", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0.0,4.0]}})", 4,
     "data_offsets"},
    {"three offsets", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4,
     "data_offsets"},
    {"offsets past the end", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4,
     "data_offsets"},
    {"shape is not bytes", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "a"},
    {"overlap",
     R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
     12, "b"},
    {"same place",
     R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
     4, "b"},
    {"hole",
     R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
     12, "b"},
    {"hole before an empty tensor",
     R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[0],"data_offsets":[2,2]}})",
     4, "b"},
    {"trailing bytes", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 5,
     "data_offsets"},
    {"name of control characters", R"({"a\nb":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
     4, "name"},
    {"no name", R"({"":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4, "name"},
    {"metadata no object", R"({"__metadata__":3})", 0, "__metadata__"},
    {"metadata nested", R"({"__metadata__":{"a":{}}})", 0, "__metadata__"},
};

TEST_F(Safetensors, HostileHeadersAreCleanErrors) {
  for (const Hostile& hostile : kHostile) {
    SCOPED_TRACE(hostile.name);
    ExpectCleanError(Open(hostile.header, hostile.data_bytes), path_, hostile.field);
  }
}

TEST_F(Safetensors, HostileLengthsAreCleanErrors) {
  for (const uint64_t length : {uint64_t{0}, uint64_t{1}, uint64_t{9}, uint64_t{1} << 63,
                                ~uint64_t{0}, uint64_t{100}, uint64_t{200} << 20}) {
    SCOPED_TRACE(length);
    WriteFile(path_, RawBytes(length) + "{}      ");
    ExpectCleanError(SafetensorsFile::Open(path_), path_, "header");
  }
  for (size_t size = 0; size < 10; ++size) {
    WriteFile(path_, std::string(size, '\0'));
    ExpectCleanError(SafetensorsFile::Open(path_), path_, "");
  }
}

TEST_F(Safetensors, NestingAndNumbersOfTensorsAreLimited) {
  ExpectCleanError(Open(StrCat("{\"a\":", std::string(100000, '[')), 0), path_, "nested");
  std::string many = "{";
  for (int i = 0; i < 100000; ++i) {
    many += StrCat(i == 0 ? "" : ",", "\"tensor", i,
                   R"(":{"dtype":"F32","shape":[1],"data_offsets":[)", 4 * i, ",", 4 * i + 4, "]}");
  }
  const uint64_t grown =
      PeakGrowth([&] { ExpectCleanError(Open(many + "}", 400000), path_, "values"); });
  // Twice the text is this test's own.
  EXPECT_TRUE(!kMemoryIsOurs || grown < 3 * many.size() + (64u << 20)) << grown;
}

TEST_F(Safetensors, MemoryStaysBelowFileAnd64MiB) {
  std::string ones = "{\"a\":[1";  // 16 MiB, 8 million numbers
  while (ones.size() < kSafetensorsHeaderBytesMax - 16) ones += ",1";
  ones += "]}";
  WriteFile(path_, SafetensorsBytes(ones, ""));
  const uint64_t grown =
      PeakGrowth([&] { ExpectCleanError(SafetensorsFile::Open(path_), path_, "values"); });
  EXPECT_TRUE(!kMemoryIsOurs || grown < ones.size() + (64u << 20)) << grown;
}

TEST_F(Safetensors, EveryTruncationOfAModelIsACleanError) {
  const TinyModel model{.d_model = 16, .n_layers = 1, .d_ff = 32};
  WriteTinySafetensors(model, folder_.path());
  const std::string bytes = ReadFile(path_);
  for (size_t size = std::min<size_t>(4096, bytes.size()); size-- > 0;) {
    SCOPED_TRACE(size);
    ASSERT_EQ(::truncate(path_.c_str(), static_cast<off_t>(size)), 0);
    ExpectCleanError(OpenCheckpoint(folder_.path()), path_, "");
  }
}

TEST_F(Safetensors, EveryFlippedBitIsSurvived) {
  const TinyModel model{.d_model = 16, .n_layers = 1, .d_ff = 32};
  WriteTinySafetensors(model, folder_.path());
  const std::string good = ReadFile(path_);
  const size_t header = good.find("}}") + 2;
  int refused = 0;
  for (size_t at = 0; at < header; ++at) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << (at * 5 % 8)));
    WriteFile(path_, bytes);
    auto opened = OpenCheckpoint(folder_.path());
    if (opened.ok()) continue;
    ++refused;
    ExpectCleanError(opened, folder_.path(), "");
  }
  EXPECT_GT(refused, 500);
}

// A text model inside one that also sees pictures has another prefix, which transformers 5 moved;
// what takes no part in answering a text is passed over.
TEST_F(Safetensors, NestedModelsAndIdleTensors) {
  const TinyModel model{.tied = false};
  WriteTinySafetensors(model, folder_.path());
  const auto plain = TinyDummy(model, folder_.path());
  const std::string good = ReadFile(path_);
  uint64_t length = 0;
  std::memcpy(&length, good.data(), sizeof length);
  const std::string header = good.substr(8, length), data = good.substr(8 + length);
  for (const auto& [body, head] :
       {std::pair("language_model.model.", "language_model."), {"model.language_model.", ""}}) {
    Json renamed = Json::MakeObject();
    const Json parsed = Json::Parse(header, "header").value();
    for (const auto& [name, entry] : parsed.as_object()) {
      const bool in_body = name.starts_with("model.");
      renamed.Set(in_body ? StrCat(body, name.substr(6)) : StrCat(head, name), entry);
    }
    for (const char* idle : {"vision_tower.a", "model.multi_modal_projector.b",
                             "model.layers.0.self_attn.rotary_emb.inv_freq"}) {
      renamed.Set(idle,
                  Json::Parse(R"({"dtype":"I64","shape":[0],"data_offsets":[0,0]})", "").value());
    }
    WriteFile(path_, SafetensorsBytes(renamed.Dump(), data));
    auto opened = OpenCheckpoint(folder_.path());
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    for (const TensorRole role : {TensorRole::kLmHead, TensorRole::kGate}) {
      const TensorInfo &a = *plain->Find(role, 1), &b = *(*opened)->Find(role, 1);
      EXPECT_TRUE(plain->Read(a, {0, a.rows}, {0, a.cols}).value().bytes ==
                  (*opened)->Read(b, {0, b.rows}, {0, b.cols}).value().bytes);
    }
    renamed.Set(StrCat(body, "layers.0.self_attn.sinks"),
                Json::Parse(R"({"dtype":"F32","shape":[0],"data_offsets":[0,0]})", "").value());
    WriteFile(path_, SafetensorsBytes(renamed.Dump(), data));
    ExpectCleanError(OpenCheckpoint(folder_.path()), folder_.path(), "sinks");
  }
}

TEST_F(Safetensors, OtherDtypesAreRefusedByName) {
  WriteTinySafetensors({}, folder_.path());
  std::string bytes = ReadFile(path_);
  bytes.replace(bytes.find("\"F32\""), 5, "\"I32\"");
  WriteFile(path_, bytes);
  ExpectCleanError(OpenCheckpoint(folder_.path()), folder_.path(), "model.embed_tokens.weight");
}

class ShardIndex : public testing::Test {
 protected:
  void SetUp() override { WriteTinySafetensors({}, folder_.path(), 2); }
  void Index(std::string_view text) { WriteFile(index_, text); }
  void ExpectError(const char* field) {
    ExpectCleanError(OpenCheckpoint(folder_.path()), folder_.path(), field);
  }
  ScratchFolder folder_;
  std::string index_ = folder_ / "model.safetensors.index.json";
};

TEST_F(ShardIndex, PartsMustBePlainNamesOfTheFolder) {
  for (const char* name : {"../model-0.safetensors", "/etc/passwd", "a/b.safetensors", "", "..",
                           "model-0.bin", "a\\nb.safetensors"}) {
    SCOPED_TRACE(name);
    Index(StrCat(R"({"weight_map":{"model.norm.weight":")", name, "\"}}"));
    ExpectError("weight_map");
  }
  for (const char* text :
       {"{}", "[]", R"({"weight_map":[]})", R"({"weight_map":{}})", R"({"weight_map":{"a":1}})"}) {
    SCOPED_TRACE(text);
    Index(text);
    ExpectError("weight_map");
  }
  Index("{");
  ExpectError("index.json");
}

TEST_F(ShardIndex, MissingPartsAndTensorsAreNamed) {
  ASSERT_EQ(::rename((folder_ / "model-1.safetensors").c_str(), (folder_ / "away").c_str()), 0);
  ExpectError("model-1.safetensors");
  ASSERT_EQ(::symlink("model-1.safetensors", (folder_ / "model-1.safetensors").c_str()), 0);
  ExpectError("model-1.safetensors");  // a cycle of links
  ::unlink((folder_ / "model-1.safetensors").c_str());
  ASSERT_EQ(::mkfifo((folder_ / "model-1.safetensors").c_str(), 0600), 0);
  ExpectError("regular file");  // and does not wait for a writer
  ::unlink((folder_ / "model-1.safetensors").c_str());
  // As caches of downloads store them.
  ASSERT_EQ(::symlink("away", (folder_ / "model-1.safetensors").c_str()), 0);
  EXPECT_TRUE(OpenCheckpoint(folder_.path()).ok());

  std::string text = ReadFile(index_);
  const size_t at = text.find("model.norm.weight");
  Index(text.substr(0, at) + "model.morn.weight" + text.substr(at + 17));
  ExpectError("promises");
}

TEST_F(ShardIndex, NumberOfPartsIsLimited) {
  std::string text = "{\"weight_map\":{\"x\":\"x.safetensors\"";
  for (int i = 0; i < 600; ++i) text += StrCat(",\"t", i, "\":\"", i, ".safetensors\"");
  Index(text + "}}");
  ExpectError("weight_map");
}

}  // namespace
}  // namespace echelon
