#pragma once
// SafetensorsFile: the header of a safetensors file, parsed and checked. The file is untrusted: its
// tensors lie inside it, side by side, without overlap, hole or rest, and shape and bytes agree.
// Plain value, immutable after Open.

#include <cstdint>
#include <string>
#include <vector>

#include "common/model/checkpoint.h"
#include "common/model/file.h"
#include "common/result.h"

namespace echelon {

struct SafetensorsTensor {
  TensorInfo info;       // info.format holds only where `readable`
  std::string dtype;     // as the file says it: "BF16"
  bool readable = true;  // F32, F16 or BF16
};

// Headers in use: below 1 MiB for 1,200 tensors. A hostile header of this size costs at most three
// times as much while it is parsed (its text, and its keys twice), inside file size + 64 MiB.
inline constexpr uint64_t kSafetensorsHeaderBytesMax = 16 << 20;
// Values of the header's JSON, 9 a tensor of two dimensions: 14,500 tensors. With long keys each
// takes up to 300 bytes of ours, 38 MiB in all.
inline constexpr uint64_t kSafetensorsValuesMax = 1 << 17;

struct SafetensorsFile {
  File file;
  std::string header;                      // its JSON text
  std::vector<SafetensorsTensor> tensors;  // in the file's order

  static Result<SafetensorsFile> Open(const std::string& path);
};

}  // namespace echelon
