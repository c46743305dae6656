#pragma once
// Recorder: steps that repeat, as graphs: one launch for all ops of a step. A graph holds the
// addresses and sizes its ops were called with, and they are its key: ops run twice, first to be
// noted only; where a graph with all the same facts is kept, it is launched, else the ops run once
// more to be captured. So a graph can never be launched for ops that are not those it holds. Host
// arrays travel apart (Staging's region), at addresses that are the same each time. One thread.

#include <bit>
#include <concepts>
#include <cstdint>
#include <functional>
#include <span>
#include <type_traits>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/ops.h"

namespace echelon::cuda {

// Rows of a step that repeats are filled up to one of 1, 2, 4, 8, 16, 24, ... 64.
inline constexpr int64_t kRepeatRowsMax = 64;
int64_t RepeatRows(int64_t rows);  // above kRepeatRowsMax: `rows`

// Begins each op's facts for the recorder.
enum class Op : uint8_t {
  kEmbed,
  kRmsNorm,
  kMatMul,
  kRopeAppend,
  kAttention,
  kMerge,
  kGated,
  kGatedMatMul,
  kAddResidual,
  kGatherRows,
  kDraw,
  kCopy,
  kLink,
  kLinkSum,
  kJoin
};

class Recorder {
 public:
  explicit Recorder(Device& device) : device_(device) {}
  ~Recorder();
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  // Between these an op is not launched but noted, with all that its launch depends on.
  bool recording() const { return recording_; }
  void BeginNotes();
  // What was noted is launched as a graph; captured by running `ops` where it is new. `send`
  // enqueues what the ops read.
  void Launch(const std::function<void()>& ops, const std::function<void()>& send);

  // Whether the op, of which these are the facts, is to be launched now.
  template <typename... Facts>
  bool Enqueue(const Facts&... facts) {
    if (!noting_) return !device_.failure();
    (Note(facts), ...);
    return false;
  }

 private:
  struct Kept {
    uint64_t key = 0;
    Graph graph = nullptr;
    uint64_t used = 0;  // the launch that used it last
  };

  void Mix(uint64_t value) {
    key_ = (key_ ^ value) * 0x9E3779B97F4A7C15ull;
    key_ ^= key_ >> 29;
  }
  template <typename Value>
  requires std::integral<Value> || std::is_enum_v<Value>
  void Note(Value value) { Mix(static_cast<uint64_t>(value)); }
  void Note(float value) { Mix(std::bit_cast<uint32_t>(value)); }
  void Note(const void* value) { Mix(reinterpret_cast<uintptr_t>(value)); }
  template <typename Value>
  void Note(std::span<const Value> values) {
    Note(values.size());
    for (const Value& value : values) Note(value);
  }
  void Note(const Rows& rows) {
    Note(static_cast<const void*>(rows.data));
    Note(rows.rows);
    Note(rows.cols);
    Note(rows.stride);
  }
  void Note(const BatchView& batch) {
    for (const int32_t* of : {batch.positions, batch.sequences, batch.page_begin, batch.pages}) {
      Note(static_cast<const void*>(of));
    }
  }
  void Note(const CacheView& cache) {
    Note(static_cast<const void*>(cache.data));
    Note(cache.page_bytes);
    Note(cache.page_tokens);
    Note(cache.kv_heads);
    Note(cache.head_dim);
    Note(cache.type);
  }
  void DropOldest();

  Device& device_;
  bool recording_ = false, noting_ = false;
  uint64_t key_ = 0, launches_ = 0;
  std::vector<Kept> kept_;
};

}  // namespace echelon::cuda
