#include "common/model/checkpoint.h"

#include <filesystem>

#include "common/check.h"
#include "common/model/file.h"
#include "common/model/gguf.h"
#include "common/model/model_families.h"
#include "common/model/open_checkpoint.h"
#include "common/strings.h"

namespace echelon {

namespace {

// What a path turned out to be.
enum class Source { kGguf, kSafetensorsFile, kFolder, kConfigFile };

Result<Source> SourceOf(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) {
    return NotFound(StrCat(path, ": no such file or folder (or no right to read it)"));
  }
  if (std::filesystem::is_directory(status)) return Source::kFolder;
  if (path.ends_with(".json")) return Source::kConfigFile;
  if (path.ends_with(".safetensors")) return Source::kSafetensorsFile;
  return Source::kGguf;
}

std::string FolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

Result<std::unique_ptr<Checkpoint>> OpenDummy(const std::string& path, Source source,
                                              const CheckpointOptions& options) {
  if (source == Source::kGguf) {
    ASSIGN_OR_RETURN(const std::unique_ptr<GgufFile> gguf, GgufFile::Open(path));
    ASSIGN_OR_RETURN(ModelConfig config, ConfigFromGguf(*gguf));
    return MakeDummyCheckpoint(std::move(config), options, std::string(gguf->header()));
  }
  const std::string folder = source == Source::kFolder ? path : FolderOf(path);
  ASSIGN_OR_RETURN(
      const ConfigText text,
      ReadConfigText(source == Source::kConfigFile ? path : StrCat(folder, "/config.json")));
  ASSIGN_OR_RETURN(ModelConfig config,
                   ConfigFromJson(text.json, text.path, {.embedding = options.dummy_format}));
  return MakeDummyCheckpoint(std::move(config), options, text.text);
}

}  // namespace

TensorPiece PieceOf(const TensorInfo& tensor, Range rows, Range cols) {
  CHECK(0 <= rows.begin && rows.begin <= rows.end && rows.end <= tensor.rows);
  CHECK(0 <= cols.begin && cols.begin <= cols.end && cols.end <= tensor.cols);
  const TensorFormatInfo& format = InfoOf(tensor.format);
  const int64_t block = format.block_elements;
  const int64_t first = cols.begin / block;
  const int64_t last = cols.empty() ? first : (cols.end + block - 1) / block;
  TensorPiece piece;
  piece.rows = rows.size();
  piece.stored_col_begin = first * block;
  piece.stored_cols = (last - first) * block;
  piece.row_bytes = (last - first) * format.block_bytes;
  return piece;
}

Result<TensorPiece> Checkpoint::Read(const TensorInfo& tensor, Range rows, Range cols) const {
  TensorPiece piece = PieceOf(tensor, rows, cols);
  piece.bytes.resize(static_cast<size_t>(piece.rows * piece.row_bytes));
  RETURN_IF_ERROR(ReadRows(tensor, rows, cols, piece.bytes));
  return piece;
}

Result<ConfigText> ReadConfigText(const std::string& path) {
  ConfigText config{path, {}, {}};
  ASSIGN_OR_RETURN(config.text, ReadTextFile(path, kConfigBytesMax));
  ASSIGN_OR_RETURN(config.json,
                   Json::Parse(config.text, path,
                               {.bytes_max = kConfigBytesMax, .values_max = kConfigValuesMax}));
  return config;
}

Result<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& path,
                                                   const CheckpointOptions& options) {
  ASSIGN_OR_RETURN(const Source source, SourceOf(path));
  if (options.load_format == "dummy") return OpenDummy(path, source, options);
  if (options.load_format != "auto") {
    return InvalidArgument(
        StrCat("load_format \"", options.load_format, "\" is unknown; known are auto and dummy"),
        "load_format");
  }
  switch (source) {
    case Source::kGguf:
      return OpenGgufCheckpoint(path);
    case Source::kFolder:
      return OpenSafetensorsCheckpoint(path, "");
    case Source::kSafetensorsFile:
      return OpenSafetensorsCheckpoint(FolderOf(path),
                                       std::filesystem::path(path).filename().string());
    case Source::kConfigFile:
      break;
  }
  return InvalidArgument(StrCat(path,
                                ": a configuration without weights; give its folder, or "
                                "load_format dummy for random weights"),
                         "model");
}

WeightBytesPer BytesPerWeight(const Checkpoint& checkpoint) {
  double bytes = 0.0, weights = 0.0;
  const auto add = [&](TensorRole role, int layer) {
    const TensorInfo* info = checkpoint.Find(role, layer);
    if (info == nullptr) return;
    bytes += static_cast<double>(info->rows * info->row_bytes);
    weights += static_cast<double>(info->rows * info->cols);
  };
  using enum TensorRole;
  for (int l = 0; l < checkpoint.config().n_layers(); ++l) {
    for (const TensorRole role : {kQuery, kKey, kValue, kAttentionOut, kGate, kUp, kDown}) {
      add(role, l);
    }
  }
  WeightBytesPer per;
  if (weights > 0) per.layers = bytes / weights;
  bytes = weights = 0.0;
  add(checkpoint.Find(kLmHead, 0) != nullptr ? kLmHead : kEmbedding, 0);
  if (weights > 0) per.head = bytes / weights;
  return per;
}

}  // namespace echelon
