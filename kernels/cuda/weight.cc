#include "kernels/cuda/weight.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <optional>

#include "common/half.h"
#include "kernels/quant/quant.h"
#include "kernels/shape_check.h"

namespace echelon::cuda {

namespace {

constexpr int64_t kChunkBytes = int64_t{16} << 20;  // of stored rows on the host at once
constexpr int kGroupsOfBlockMax = 8;

Packing PackingOf(TensorFormat format) {
  switch (format) {
    case TensorFormat::kF32:
      return Packing::kF32;
    case TensorFormat::kF16:
      return Packing::kF16;
    case TensorFormat::kBF16:
      return Packing::kBF16;
    default:
      break;
  }
  switch (FindQuantFormat(format)->code_bits) {
    case 4:
      return Packing::k4;
    case 5:
      return Packing::k5;
    case 6:
      return Packing::k6;
    default:
      return Packing::k8;
  }
}

// Elements of a group, codes or bits as they are, into their chunks of the row.
void StoreGroup(const PartView& part, int64_t row, int64_t group, const uint32_t* elements) {
  char* tile = const_cast<char*>(part.Tile(row, group));
  const int r = static_cast<int>(row % kTileRows);
  for (int t = 0; t < kGroup / kChunk; ++t) {
    Chunk chunk = {};
    for (int j = 0; j < kChunk; ++j) {
      const uint32_t bits = elements[ElementAt(t, j)];
      const int i = j / 2, second = j % 2;
      switch (part.packing) {
        case Packing::k8:
          chunk.word[j / 4] |= bits << (j % 4 * 8);
          break;
        case Packing::kF16:
        case Packing::kBF16:
          chunk.word[i] |= bits << (16 * second);
          break;
        case Packing::kF32:
          chunk.word[j] = bits;
          break;
        default:
          chunk.word[0] |= (bits & 0xfu) << (4 * i + 16 * second);
          if (part.packing == Packing::k5) chunk.high |= (bits >> 4) << (i + 4 * second);
          if (part.packing == Packing::k6) chunk.high |= (bits >> 4) << (2 * i + 8 * second);
      }
    }
    char* to = tile + ChunkOffset(part.packing, r, t);
    const int words = WordsOf(part.packing) / 4;
    for (int w = 0; w < words; ++w)
      std::memcpy(to + (w < 4 ? 4 * w : 512 + 4 * (w - 4)), &chunk.word[w], 4);
    char* high = tile + HighOffset(part.packing, r, t);
    if (part.packing == Packing::k5) std::memcpy(high, &chunk.high, 1);
    if (part.packing == Packing::k6) std::memcpy(high, &chunk.high, 2);
  }
}

void StoreHalf(float value, const char* to) {
  StoreU16(FloatToHalf(value), reinterpret_cast<std::byte*>(const_cast<char*>(to)));
}

void PackScale(const CodeGroup& group, const PartView& part, int64_t row, int64_t g) {
  char* entry = const_cast<char*>(part.ScaleOf(row, g));
  if (!part.super_scales) {
    StoreHalf(group.scale[0], entry);
    if (part.has_min) StoreHalf(group.min, entry + 2);
    return;
  }
  entry[0] = static_cast<char>(group.scale_codes[0]);
  entry[1] = static_cast<char>(part.split_scales ? group.scale_codes[1] : group.min_code);
  StoreHalf(group.super_scale, part.SuperOf(row, g));
  StoreHalf(group.super_min, part.SuperOf(row, g) + 2);
}

bool SameShape(const HostMatrix& a, const HostMatrix& b) {
  return a.format == b.format && a.col_begin == b.col_begin && a.col_end == b.col_end;
}

}  // namespace

PartView ShapeOf(const HostMatrix& matrix) {
  const QuantFormat* quant = FindQuantFormat(matrix.format);
  PartView part;
  part.packing = PackingOf(matrix.format);
  part.rows = matrix.rows;
  part.cols = matrix.col_end - matrix.col_begin;
  // Whole blocks are kept: the first is the one with the first used column.
  const int64_t block = std::max(InfoOf(matrix.format).block_elements, kGroup);
  const int64_t begin = matrix.col_begin / block * block;
  part.lead = static_cast<int32_t>(matrix.col_begin - begin);
  part.groups = (matrix.col_end - begin + kGroup - 1) / kGroup;
  if (quant == nullptr) return part;
  part.offset = quant->offset;
  part.has_min = quant->has_min;
  part.super_scales = quant->super_scales;
  part.split_scales = quant->split_scales;
  return part;
}

void PackRow(const HostMatrix& matrix, const std::byte* stored, const PartView& part, int64_t row) {
  const TensorFormatInfo& info = InfoOf(matrix.format);
  const QuantFormat* quant = FindQuantFormat(matrix.format);
  const int64_t begin = matrix.col_begin - part.lead;
  if (quant == nullptr) {  // elements as they are, zeros behind the end
    const std::byte* from = stored + begin * info.block_bytes;
    const int64_t count = matrix.cols - begin;
    for (int64_t g = 0; g < part.groups; ++g) {
      uint32_t elements[kGroup] = {};
      for (int64_t e = 0; e < kGroup && g * kGroup + e < count; ++e) {
        std::memcpy(&elements[e], from + (g * kGroup + e) * info.block_bytes, info.block_bytes);
      }
      StoreGroup(part, row, g, elements);
    }
    return;
  }
  const int64_t groups_of_block = info.block_elements / kGroup;
  const std::byte* block = stored + begin / info.block_elements * info.block_bytes;
  CodeGroup groups[kGroupsOfBlockMax];
  for (int64_t g = 0; g < part.groups; ++g) {
    if (g % groups_of_block == 0) {
      quant->unpack(block, groups);
      block += info.block_bytes;
    }
    const CodeGroup& group = groups[g % groups_of_block];
    uint32_t elements[kGroup];
    std::copy(std::begin(group.codes), std::end(group.codes), elements);
    StoreGroup(part, row, g, elements);
    PackScale(group, part, row, g);
  }
}

// Packs one weight: a part at a time, some rows at a time.
class WeightPacker {
 public:
  WeightPacker(Device& device, ThreadPool& pool) : device_(device), pool_(pool) {}

  Result<std::unique_ptr<Weight>> Pack(std::span<const HostMatrix> matrices) {
    auto weight = std::make_unique<CudaWeight>();
    for (size_t at = 0; at < matrices.size();) {
      size_t end = at + 1;
      int64_t rows = matrices[at].rows;  // whole tiles where another matrix follows
      while (end < matrices.size() && SameShape(matrices[at], matrices[end]) &&
             rows % kTileRows == 0) {
        rows += matrices[end++].rows;
      }
      RETURN_IF_ERROR(PackPart(matrices.subspan(at, end - at), *weight));
      at = end;
    }
    const size_t table_bytes = weight->parts_.size() * sizeof(PartView);
    ASSIGN_OR_RETURN(weight->table_, device_.Allocate(table_bytes, "a weight's table"));
    device_.CopyIn(weight->table_.data(), weight->parts_.data(), table_bytes);
    device_.Wait();
    if (device_.failure()) return *device_.failure();
    return std::unique_ptr<Weight>(std::move(weight));
  }

 private:
  Status PackPart(std::span<const HostMatrix> matrices, CudaWeight& weight) {
    PartView part = ShapeOf(matrices[0]);
    part.rows = 0;
    for (const HostMatrix& matrix : matrices) part.rows += matrix.rows;
    ASSIGN_OR_RETURN(part.codes, NewPlane(part.CodeBytes(), weight));
    ASSIGN_OR_RETURN(part.scales, NewPlane(part.ScalePlaneBytes(), weight));
    ASSIGN_OR_RETURN(part.supers, NewPlane(part.SuperPlaneBytes(), weight));
    int64_t row = 0;
    for (const HostMatrix& matrix : matrices) {
      const int64_t tiles = std::max<int64_t>(1, kChunkBytes / (kTileRows * matrix.row_bytes));
      const int64_t step = tiles * kTileRows;
      for (int64_t begin = 0; begin < matrix.rows; begin += step) {
        const int64_t end = std::min(matrix.rows, begin + step);
        RETURN_IF_ERROR(PackRows(matrix, begin, end, part, row + begin));
      }
      row += matrix.rows;
    }
    weight.parts_.push_back(part);
    weight.rows_ += part.rows;
    return {};
  }

  Result<const char*> NewPlane(int64_t bytes, CudaWeight& weight) {
    if (bytes == 0) return static_cast<const char*>(nullptr);
    ASSIGN_OR_RETURN(DeviceMemory plane, device_.Allocate(bytes, "a weight"));
    const char* data = plane.data();
    weight.bytes_ += plane.bytes();
    weight.planes_.push_back(std::move(plane));
    return data;
  }

  // Rows [begin, end) of the matrix, which are rows [row, ...) of the part.
  Status PackRows(const HostMatrix& matrix, int64_t begin, int64_t end, const PartView& part,
                  int64_t row) {
    PartView host = part;
    host.rows = end - begin;
    const std::vector<char>* planes[] = {Plane(0, host.CodeBytes()),
                                         Plane(1, host.ScalePlaneBytes()),
                                         Plane(2, host.SuperPlaneBytes())};
    host.codes = planes[0]->data();
    host.scales = planes[1]->data();
    host.supers = planes[2]->data();
    RETURN_IF_ERROR(PackHost(matrix, begin, end, host));
    const char* to[] = {part.Tile(row, 0), part.scales ? part.ScaleOf(row, 0) : nullptr,
                        part.supers ? part.SuperOf(row, 0) : nullptr};
    for (int i = 0; i < 3; ++i) {
      device_.CopyIn(const_cast<char*>(to[i]), planes[i]->data(), planes[i]->size());
    }
    device_.Wait();  // the planes are filled again
    if (device_.failure()) return *device_.failure();
    return {};
  }

  const std::vector<char>* Plane(int which, int64_t bytes) {
    planes_[which].assign(static_cast<size_t>(bytes), 0);  // rows that fill up the last tile
    return &planes_[which];
  }

  Status PackHost(const HostMatrix& matrix, int64_t begin, int64_t end, const PartView& host) {
    constexpr int64_t kRowsAtOnce = 16;
    std::mutex mutex;
    std::optional<Error> error;
    pool_.ParallelFor(end - begin, kRowsAtOnce, [&](int64_t from, int64_t to, int) {
      std::vector<std::byte> read;
      const std::byte* rows = nullptr;
      if (matrix.data != nullptr) {
        rows = matrix.data + (begin + from) * matrix.row_bytes;
      } else {
        read.resize(static_cast<size_t>((to - from) * matrix.row_bytes));
        const Status status = matrix.read(begin + from, begin + to, read.data());
        if (!status.ok()) {
          const std::lock_guard lock(mutex);
          error = status.error();
          return;
        }
        rows = read.data();
      }
      for (int64_t r = from; r < to; ++r) {
        PackRow(matrix, rows + (r - from) * matrix.row_bytes, host, r);
      }
    });
    if (error) return *error;
    return {};
  }

  Device& device_;
  ThreadPool& pool_;
  std::vector<char> planes_[3];
};

Result<std::unique_ptr<Weight>> PackCudaWeight(std::span<const HostMatrix> parts, Device& device,
                                               ThreadPool& pool) {
  CheckParts(parts);
  return WeightPacker(device, pool).Pack(parts);
}

}  // namespace echelon::cuda
