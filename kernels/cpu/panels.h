#pragma once
// Packed weights of the CPU backend. A panel is 16 rows of a matrix, interleaved so that a vector
// lane owns a row: one micro-kernel, one order of sums, for every batch size.
//
// Quantised panels: group after group of 32 columns, one stream for the prefetcher. Of a group,
// first the codes: for k-quad i (columns 4i..4i+3) and row r at byte 64 i + 4 r; 4-bit codes share
// a byte with those of quad i + 4 (high half). Then the 16 rows' scales (in Q6_K those of columns
// 0..15, then those of columns 16..31), then the 16 minima where the format has them. Scales are
// float16 where the file's are, float where they are products of two numbers.
//
// Float panels: column k of row r lies at element 16 k + r, in the file's own type.

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/host_memory.h"
#include "kernels/thread_pool.h"

namespace echelon::cpu {

inline constexpr int kPanelRows = 16;
inline constexpr int kGroup = 32;  // columns of a group

struct PanelPart {
  TensorFormat format = TensorFormat::kF32;
  bool quantised = false;
  int64_t row_begin = 0;  // of the stacked weight
  int64_t rows = 0;
  int64_t panels = 0;  // rows / 16, rounded up; the rows that fill up are zero
  int64_t cols = 0;    // inputs
  int64_t groups = 0;  // quantised: groups that hold the columns, the first `lead` of them not
  int offset = 0;      // value = scale * (code - offset) + min
  int64_t panel_bytes = 0;
  int64_t group_bytes = 0;
  const std::byte* data = nullptr;  // 64-byte aligned, as are all panels
};

class CpuWeight : public Weight {
 public:
  CpuWeight(std::vector<PanelPart> parts, int lead, HostPiece data);
  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return parts_[0].cols; }
  size_t bytes() const override { return data_.bytes; }
  const std::vector<PanelPart>& parts() const { return parts_; }
  int64_t panels() const { return panels_; }
  // Columns of the first group before the first input (a cut inside a block), the same in all
  // parts.
  int lead() const { return lead_; }
  bool any_quantised() const { return any_quantised_; }

  // Row r as floats (cols).
  void ReadRow(int64_t r, float* out) const;

 private:
  std::vector<PanelPart> parts_;
  int64_t rows_ = 0;
  int64_t panels_ = 0;
  int lead_ = 0;
  bool any_quantised_ = false;
  HostPiece data_;
};

Result<std::unique_ptr<Weight>> PackCpuWeight(std::span<const HostMatrix> parts, HostArena& arena,
                                              ThreadPool& pool);

}  // namespace echelon::cpu
