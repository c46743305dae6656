#pragma once
// Packed weights of the CPU backend. A panel is 16 rows of a matrix, interleaved so that a vector
// lane owns a row: one micro-kernel, one order of sums, for every batch size.
//
// Quantised panels: group after group of 32 columns (panel_group.h), one stream for the prefetcher,
// as many bits a weight as in the file; then the super scales where the format has them.
//
// Float panels: column k of row r lies at element 16 k + r, in the file's own type.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/panel_group.h"
#include "kernels/host_memory.h"
#include "kernels/thread_pool.h"

namespace echelon::cpu {

struct PanelPart {
  TensorFormat format = TensorFormat::kF32;
  bool quantised = false;
  int64_t row_begin = 0;  // of the stacked weight
  int64_t rows = 0;
  int64_t panels = 0;  // rows / 16, rounded up; the rows that fill up are zero
  int64_t cols = 0;    // inputs
  int64_t groups = 0;  // quantised: groups that hold the columns, the first `lead` of them not
  int super_lead = 0;  // groups of the first super scale's block that lie before the first group
  int64_t panel_bytes = 0;
  int64_t group_bytes = 0;
  int64_t super_bytes = 0;          // of eight groups
  const std::byte* data = nullptr;  // 64-byte aligned, as are all panels

  int64_t group_at(int64_t g) const { return g * group_bytes; }  // byte of a panel
  int64_t super_at(int64_t g) const {
    return groups * group_bytes + (g + super_lead) / kSuperGroups * super_bytes;
  }
};

class CpuWeight : public Weight {
 public:
  CpuWeight(std::vector<PanelPart> parts, int lead, HostPiece data);
  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return parts_[0].cols; }
  size_t bytes() const override { return data_.bytes; }
  const std::vector<PanelPart>& parts() const { return parts_; }
  int64_t panels() const { return panels_; }
  // The memory of panels [begin, end) of all parts.
  std::span<const std::byte> PanelBytes(int64_t begin, int64_t end) const;
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
