#pragma once
// Checkpoint: an opened model, GGUF or safetensors, whose tensors are found by role and read in
// pieces, so that each rank reads its own bytes only. Headers are parsed and checked when it is
// opened; no size from the file is used unchecked. Reading is const; several threads may read.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/model_config.h"
#include "common/parallel_layout.h"
#include "common/result.h"
#include "common/tensor_format.h"

namespace echelon {

struct TensorInfo {
  std::string name;  // as the file calls it, for messages
  TensorFormat format = TensorFormat::kF32;
  int64_t rows = 0;       // outputs; 1 for vectors
  int64_t cols = 0;       // inputs
  int file = 0;           // index into the checkpoint's files
  uint64_t offset = 0;    // of the first byte in that file
  int64_t row_bytes = 0;  // cols / block_elements * block_bytes
};

// A piece of a tensor in host memory: whole rows cut to whole blocks of columns.
struct TensorPiece {
  std::vector<std::byte> bytes;
  int64_t rows = 0;
  int64_t stored_col_begin = 0;  // first stored column (a block boundary, <= the range asked for)
  int64_t stored_cols = 0;       // a multiple of the block's elements
  int64_t row_bytes = 0;         // of the piece
};

// The piece that covers the rows and columns asked for, still without bytes.
TensorPiece PieceOf(const TensorInfo& tensor, Range rows, Range cols);

class Checkpoint {
 public:
  virtual ~Checkpoint() = default;
  virtual const ModelConfig& config() const = 0;
  // The tensor, or null where the model has none (no bias, tied head). `layer` is ignored for the
  // roles that stand once (embedding, head, final norm).
  virtual const TensorInfo* Find(TensorRole role, int layer) const = 0;
  // Rows cut to the whole blocks that cover `cols`, side by side: as many bytes as PieceOf says.
  virtual Status ReadRows(const TensorInfo& tensor, Range rows, Range cols,
                          std::span<std::byte> out) const = 0;
  Result<TensorPiece> Read(const TensorInfo& tensor, Range rows, Range cols) const;
  // Hash of headers, configuration and file sizes: equal on every host that has the same files.
  virtual std::string Fingerprint() const = 0;
  virtual uint64_t file_bytes() const = 0;
  // Bytes of tensor data read (or, for a dummy, made) so far: progress, and the proof that a rank
  // reads its own bytes only.
  virtual uint64_t bytes_read() const = 0;
};

// Average bytes of a weight of the layers' matrices and of the LM head.
struct WeightBytesPer {
  double layers = 2.0, head = 2.0;
};
WeightBytesPer BytesPerWeight(const Checkpoint& checkpoint);

// `path`: a .gguf file, a .safetensors file, or a folder with config.json and safetensors (one file
// or sharded index), or, with load_format "dummy", anything that holds a configuration (a folder or
// config.json or .gguf): seeded random weights.
struct CheckpointOptions {
  std::string load_format = "auto";  // auto | dummy
  uint64_t dummy_seed = 0;
  TensorFormat dummy_format = TensorFormat::kBF16;
};
Result<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& path,
                                                   const CheckpointOptions& options = {});

}  // namespace echelon
