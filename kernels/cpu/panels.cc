#include "kernels/cpu/panels.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/strings.h"
#include "kernels/quant/quant.h"
#include "kernels/shape_check.h"

namespace echelon::cpu {

namespace {
int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Sizes and offsets of a part; its data is placed later.
PanelPart Plan(const HostMatrix& matrix) {
  PanelPart part;
  part.format = matrix.format;
  part.rows = matrix.rows;
  part.panels = (matrix.rows + kPanelRows - 1) / kPanelRows;
  part.cols = matrix.col_end - matrix.col_begin;
  const QuantFormat* quant = FindQuantFormat(matrix.format);
  part.quantised = quant != nullptr;
  if (quant == nullptr) {
    part.panel_bytes =
        RoundUp(part.cols * kPanelRows * InfoOf(matrix.format).block_bytes, kHostAlignment);
    return part;
  }
  const GroupLayout layout = LayoutOf(*quant);
  const int64_t first_group = matrix.col_begin / kGroup;
  part.groups = (matrix.col_end + kGroup - 1) / kGroup - first_group;
  part.super_lead = static_cast<int>(first_group % kSuperGroups);
  part.group_bytes = layout.Bytes();
  part.super_bytes = layout.SuperBytes();
  part.panel_bytes = RoundUp(part.super_at(part.groups - 1) + part.super_bytes, kHostAlignment);
  return part;
}

void PackQuantisedRow(const HostMatrix& matrix, const PanelPart& part, int64_t row, int r,
                      std::byte* panel) {
  const QuantFormat& quant = *FindQuantFormat(matrix.format);
  const TensorFormatInfo& info = InfoOf(matrix.format);
  const int per_block = info.block_elements / kGroup;
  const int64_t first_group = matrix.col_begin / kGroup;
  CodeGroup groups[8];
  int64_t unpacked = -1;
  for (int64_t g = 0; g < part.groups; ++g) {
    const int64_t block = (first_group + g) / per_block;
    if (block != unpacked) {
      quant.unpack(matrix.data + row * matrix.row_bytes + block * info.block_bytes, groups);
      unpacked = block;
    }
    StoreGroup(quant, groups[(first_group + g) % per_block], r, panel + part.group_at(g),
               panel + part.super_at(g));
  }
}

void PackFloatRow(const HostMatrix& matrix, const PanelPart& part, int64_t row, int r,
                  std::byte* panel) {
  const int size = InfoOf(matrix.format).block_bytes;
  const std::byte* from = matrix.data + row * matrix.row_bytes + matrix.col_begin * size;
  for (int64_t k = 0; k < part.cols; ++k) {
    std::memcpy(panel + (k * kPanelRows + r) * size, from + k * size, size);
  }
}

void PackPanel(const HostMatrix& matrix, const PanelPart& part, int64_t p, std::byte* panel) {
  std::memset(panel, 0, static_cast<size_t>(part.panel_bytes));
  const int rows = static_cast<int>(std::min<int64_t>(kPanelRows, matrix.rows - p * kPanelRows));
  for (int r = 0; r < rows; ++r) {
    if (part.quantised) {
      PackQuantisedRow(matrix, part, p * kPanelRows + r, r, panel);
    } else {
      PackFloatRow(matrix, part, p * kPanelRows + r, r, panel);
    }
  }
}

// Rows that a thread reads from the checkpoint at a time: few system calls, and packed from its
// second-level cache.
constexpr int64_t kStagingBytes = 128 << 10;

Status PackPart(const HostMatrix& matrix, const PanelPart& part, std::byte* data,
                ThreadPool& pool) {
  const int64_t fit = std::max<int64_t>(1, kStagingBytes / (kPanelRows * matrix.row_bytes));
  // At least four ranges a thread, so that none waits long for another.
  const int64_t grain = std::clamp<int64_t>(part.panels / (4 * pool.threads()), 1, fit);
  std::vector<std::vector<std::byte>> staging(pool.threads());
  std::vector<Status> read(pool.threads());  // a thread's first error
  pool.ParallelFor(part.panels, grain, [&](int64_t begin, int64_t end, int thread) {
    const int64_t first = begin * kPanelRows;
    HostMatrix tile = matrix;  // of the rows of these panels
    tile.rows = std::min(end * kPanelRows, matrix.rows) - first;
    if (matrix.data != nullptr) {
      tile.data = matrix.data + first * matrix.row_bytes;
    } else {
      staging[thread].resize(static_cast<size_t>(grain * kPanelRows * matrix.row_bytes));
      const Status status = matrix.read(first, first + tile.rows, staging[thread].data());
      if (!status.ok() && read[thread].ok()) read[thread] = status;
      tile.data = staging[thread].data();
    }
    for (int64_t p = begin; p < end; ++p) {
      PackPanel(tile, part, p - begin, data + p * part.panel_bytes);
    }
  });
  for (const Status& status : read) RETURN_IF_ERROR(status);
  return {};
}

void ReadQuantisedRow(const PanelPart& part, const std::byte* panel, int r, int lead, float* out) {
  const QuantFormat& quant = *FindQuantFormat(part.format);
  for (int64_t column = 0; column < part.cols; ++column) {
    const int64_t g = (column + lead) / kGroup;
    out[column] = LoadValue(quant, panel + part.group_at(g), panel + part.super_at(g), r,
                            static_cast<int>((column + lead) % kGroup));
  }
}

void ReadFloatRow(const PanelPart& part, const std::byte* panel, int r, float* out) {
  const int size = InfoOf(part.format).block_bytes;
  for (int64_t k = 0; k < part.cols; ++k) {
    DequantizeRow(part.format, panel + (k * kPanelRows + r) * size, 1, out + k);
  }
}
}  // namespace

CpuWeight::CpuWeight(std::vector<PanelPart> parts, int lead, HostPiece data)
    : parts_(std::move(parts)), lead_(lead), data_(std::move(data)) {
  for (const PanelPart& part : parts_) {
    rows_ += part.rows;
    panels_ += part.panels;
    any_quantised_ |= part.quantised;
  }
}

std::span<const std::byte> CpuWeight::PanelBytes(int64_t begin, int64_t end) const {
  const auto at = [&](int64_t panel) {
    int64_t byte = 0;
    for (const PanelPart& part : parts_) {
      const int64_t inside = std::min(panel, part.panels);
      byte += inside * part.panel_bytes;
      panel -= inside;
    }
    return parts_[0].data + byte;  // parts follow each other
  };
  return {at(begin), at(end)};
}

void CpuWeight::ReadRow(int64_t r, float* out) const {
  for (const PanelPart& part : parts_) {
    const int64_t row = r - part.row_begin;
    if (row < 0 || row >= part.rows) continue;
    const std::byte* panel = part.data + row / kPanelRows * part.panel_bytes;
    const int lane = static_cast<int>(row % kPanelRows);
    if (part.quantised) {
      ReadQuantisedRow(part, panel, lane, lead_, out);
    } else {
      ReadFloatRow(part, panel, lane, out);
    }
    return;
  }
  CHECK_MSG(false, "row outside the weight");
}

Result<std::unique_ptr<Weight>> PackCpuWeight(std::span<const HostMatrix> matrices,
                                              HostArena& arena, ThreadPool& pool) {
  CheckParts(matrices);
  std::vector<PanelPart> parts;
  int lead = -1;
  int64_t rows = 0;
  size_t bytes = 0;
  for (const HostMatrix& matrix : matrices) {
    PanelPart part = Plan(matrix);
    part.row_begin = rows;
    rows += part.rows;
    bytes += static_cast<size_t>(part.panels * part.panel_bytes);
    if (part.quantised) {
      const int part_lead = static_cast<int>(matrix.col_begin % kGroup);
      CHECK_MSG(lead < 0 || lead == part_lead, "stacked parts are cut at different columns");
      lead = part_lead;
    }
    parts.push_back(part);
  }
  ASSIGN_OR_RETURN(HostPiece data, arena.Take(bytes, "a weight"));
  std::byte* at = data.data;
  for (size_t i = 0; i < parts.size(); ++i) {
    const PanelPart part = parts[i];
    const HostMatrix& matrix = matrices[i];
    parts[i].data = at;
    RETURN_IF_ERROR(PackPart(matrix, part, at, pool));
    at += part.panels * part.panel_bytes;
  }
  return std::unique_ptr<Weight>(
      new CpuWeight(std::move(parts), std::max(lead, 0), std::move(data)));
}

}  // namespace echelon::cpu
