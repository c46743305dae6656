#include "common/model/file_checkpoint.h"

#include <atomic>
#include <unordered_map>
#include <utility>

#include "common/check.h"
#include "common/strings.h"

namespace echelon {

namespace {

class FileCheckpoint final : public Checkpoint {
 public:
  static Result<std::unique_ptr<Checkpoint>> Bind(CheckpointParts parts);

  const ModelConfig& config() const override { return parts_.config; }
  const TensorInfo* Find(TensorRole role, int layer) const override;
  Status ReadRows(const TensorInfo& tensor, Range rows, Range cols,
                  std::span<std::byte> out) const override;
  std::string Fingerprint() const override { return parts_.fingerprint; }
  uint64_t file_bytes() const override;
  uint64_t bytes_read() const override { return bytes_read_.load(std::memory_order_relaxed); }

 private:
  explicit FileCheckpoint(CheckpointParts parts) : parts_(std::move(parts)) {}
  size_t SlotOf(TensorRole role, int layer) const {
    return static_cast<size_t>(IsGlobal(role) ? 0 : layer) * kTensorRoles +
           static_cast<size_t>(role);
  }
  Status BindRole(TensorRole role, int layer,
                  std::unordered_map<std::string, const TensorInfo*>& unbound);

  CheckpointParts parts_;
  std::vector<const TensorInfo*> slots_;  // [layer][role]; those that stand once in layer 0
  mutable std::atomic<uint64_t> bytes_read_ = 0;
};

Status FileCheckpoint::BindRole(TensorRole role, int layer,
                                std::unordered_map<std::string, const TensorInfo*>& unbound) {
  const ModelConfig& config = parts_.config;
  if (!HasRole(config, role)) return {};
  const std::string name = StrCat(role == TensorRole::kLmHead ? parts_.head_prefix : parts_.prefix,
                                  TensorName(config, parts_.scheme, role, layer));
  const auto found = unbound.find(name);
  if (found == unbound.end()) {
    return Corrupt(StrCat(parts_.path, ": the tensor ", name, " is missing"), name);
  }
  const TensorInfo& tensor = *found->second;
  const TensorShape want = ShapeOf(config, role);
  if (tensor.rows != want.rows || tensor.cols != want.cols) {
    return Corrupt(StrCat(parts_.path, ": tensor ", name, " has ", tensor.rows, " x ", tensor.cols,
                          " elements, but the configuration demands ", want.rows, " x ", want.cols),
                   name);
  }
  slots_[SlotOf(role, layer)] = &tensor;
  unbound.erase(found);
  return {};
}

Result<std::unique_ptr<Checkpoint>> FileCheckpoint::Bind(CheckpointParts parts) {
  std::unique_ptr<FileCheckpoint> out(new FileCheckpoint(std::move(parts)));
  const int layers = out->parts_.config.n_layers();
  out->slots_.assign(static_cast<size_t>(layers) * kTensorRoles, nullptr);
  std::unordered_map<std::string, const TensorInfo*> unbound;
  for (const TensorInfo& tensor : out->parts_.tensors) unbound.emplace(tensor.name, &tensor);
  for (int r = 0; r < kTensorRoles; ++r) {
    const auto role = static_cast<TensorRole>(r);
    for (int layer = 0; layer < (IsGlobal(role) ? 1 : layers); ++layer) {
      RETURN_IF_ERROR(out->BindRole(role, layer, unbound));
    }
  }
  for (const TensorInfo& tensor : out->parts_.tensors) {
    if (!unbound.contains(tensor.name)) continue;
    Error error =
        Unsupported(StrCat(out->parts_.path, ": a ", out->parts_.config.family,
                           " model of this configuration has no use for the tensor ", tensor.name,
                           "; this build cannot run the file as it is meant"));
    error.field = tensor.name;
    return error;
  }
  const WeightBytesPer bytes = BytesPerWeight(*out);
  out->parts_.config.head_cost = bytes.head / bytes.layers;
  return std::unique_ptr<Checkpoint>(std::move(out));
}

const TensorInfo* FileCheckpoint::Find(TensorRole role, int layer) const {
  CHECK(IsGlobal(role) || (0 <= layer && layer < parts_.config.n_layers()));
  return slots_[SlotOf(role, layer)];
}

uint64_t FileCheckpoint::file_bytes() const {
  uint64_t sum = 0;
  for (const File& file : parts_.files) sum += file.size();
  return sum;
}

Status FileCheckpoint::ReadRows(const TensorInfo& tensor, Range rows, Range cols,
                                std::span<std::byte> out) const {
  const TensorPiece piece = PieceOf(tensor, rows, cols);
  const auto part = static_cast<size_t>(piece.row_bytes);
  CHECK(out.size() == static_cast<size_t>(piece.rows) * part);
  const File& file = parts_.files[static_cast<size_t>(tensor.file)];
  const TensorFormatInfo& format = InfoOf(tensor.format);
  const int64_t skipped = piece.stored_col_begin / format.block_elements * format.block_bytes;
  const uint64_t begin =
      tensor.offset + static_cast<uint64_t>(rows.begin * tensor.row_bytes + skipped);
  if (piece.row_bytes == tensor.row_bytes) {  // whole rows lie side by side
    RETURN_IF_ERROR(file.Read(begin, out));
  } else {
    for (int64_t r = 0; r < piece.rows; ++r) {
      RETURN_IF_ERROR(file.Read(begin + static_cast<uint64_t>(r * tensor.row_bytes),
                                out.subspan(static_cast<size_t>(r) * part, part)));
    }
  }
  bytes_read_.fetch_add(out.size(), std::memory_order_relaxed);
  return {};
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> MakeFileCheckpoint(CheckpointParts parts) {
  return FileCheckpoint::Bind(std::move(parts));
}

}  // namespace echelon
