#pragma once
// Backend: THE op interface. A backend owns memory and one in-order stream; every op is enqueued on
// the stream and may run later: what it writes may be read by the host, and what it reads may be
// changed, only after Synchronize(), or WaitFor() of a mark behind it. (The CPU's stream is its
// thread pool; a GPU's is a CUDA stream.) One host thread drives a backend. All activations are
// float32.
//
// Row invariance (replay contract, L2): row t of every op's output has the same bits whatever the
// other rows are, however many there are, and however many threads compute them.
//
// Implementations: reference/ (naive, double accumulation: the specification), cpu/, cuda/.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "common/result.h"
#include "common/tensor_format.h"
#include "kernels/logit_change.h"
#include "kernels/tensor.h"

namespace echelon {

class DeviceLink;

// A matrix as the checkpoint stores it: `rows` rows of whole blocks, in host memory or read as they
// are packed, so that no second copy of a matrix is ever in memory.
struct HostMatrix {
  TensorFormat format = TensorFormat::kF32;
  int64_t rows = 0;
  int64_t cols = 0;                 // stored columns, a multiple of the block's elements
  const std::byte* data = nullptr;  // null: `read` brings the rows
  int64_t row_bytes = 0;            // from one row to the next
  // A cut along columns inside a block keeps the block; columns outside [begin, end) count as
  // zero. The packed weight takes inputs of col_end - col_begin values.
  int64_t col_begin = 0;
  int64_t col_end = 0;
  // Rows [begin, end) into `out`, row_bytes apart. Called during PackWeight alone, from any of the
  // backend's threads, several at once.
  std::function<Status(int64_t begin, int64_t end, std::byte* out)> read = {};
};

// A matrix in the backend's own layout, still quantised. (rows, cols) = (outputs, inputs).
class Weight {
 public:
  virtual ~Weight() = default;
  virtual int64_t rows() const = 0;
  virtual int64_t cols() const = 0;
  virtual size_t bytes() const = 0;
};

// Memory of the backend; freed with the object. Contents are undefined until written.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  virtual void* data() = 0;
  virtual size_t bytes() const = 0;
};

// Of cached keys and values. kQ8_0: blocks of 32 values of a key or value (the last may be
// shorter), signed bytes with a float16 scale, as GGML's format of that name rounds them: 53 % of
// float16.
enum class KvType : uint8_t { kF32, kF16, kQ8_0 };
inline constexpr int kKvBlock = 32;

struct KvShape {
  int layers = 0;  // of this rank
  int pages = 0;
  int page_tokens = 16;
  int kv_heads = 0;  // of this rank
  int head_dim = 0;
  KvType type = KvType::kF16;
  // Bytes of one key or one value.
  uint64_t VectorBytes() const {
    const auto values = static_cast<uint64_t>(head_dim);
    if (type == KvType::kQ8_0) return values + (values + kKvBlock - 1) / kKvBlock * 2;
    return values * (type == KvType::kF32 ? 4 : 2);
  }
  // Bytes of one page over all layers, keys and values.
  uint64_t PageBytes() const { return 2ull * layers * page_tokens * kv_heads * VectorBytes(); }
};

// Paged keys and values of every layer of this rank. A page id names the same slot in all layers.
class KvCache {
 public:
  virtual ~KvCache() = default;
  virtual const KvShape& shape() const = 0;
  // Backend memory of a page of one layer: what is passed to another rank. `pages` neighbouring
  // ones from `page` on lie together where the cache has one layer. The bytes mean the same in
  // every cache whose shape differs in layers and pages.
  virtual std::span<std::byte> PageData(int layer, int32_t page, int32_t pages) = 0;
};

// Which token each row of a step is. The spans live until Synchronize().
struct BatchRows {
  std::span<const int32_t> positions;   // (T) absolute position in its sequence
  std::span<const int32_t> sequences;   // (T) index into page_begin
  std::span<const int32_t> page_begin;  // (S + 1) offsets into pages
  std::span<const int32_t> pages;       // page ids; position p of sequence s is in
                                        // pages[page_begin[s] + p / page_tokens]; -1: not stored
                                        // here (another rank keeps it)
};

struct RopeTable {
  // inverse_frequency[i] for pair i of a head, scaling applied: angle = position * value. float64,
  // host memory, (head_dim / 2). The spans live as long as the model.
  std::span<const double> inverse_frequency;
  bool interleaved = false;  // pairs (2i, 2i+1), else (i, i + head_dim / 2)
};

struct QkvArgs {
  Tensor qkv;        // (T, (H + 2 * KV) * D), in: projections; out: rotated queries in
                     // the first H * D columns
  int heads = 0;     // H, query heads of this rank
  int kv_heads = 0;  // KV, of this rank
  int head_dim = 0;  // D
  const float* query_norm = nullptr;  // (D) backend memory, or null: RMSNorm of each query head
  const float* key_norm = nullptr;    // (D) or null
  float norm_eps = 0.0f;
  RopeTable rope;
  BatchRows rows;
  KvCache* cache = nullptr;
  int layer = 0;  // of this rank
};

struct AttentionArgs {
  Tensor q;    // (T, H * D), rotated
  Tensor out;  // (T, H * D)
  int heads = 0;
  int head_dim = 0;
  // Query head h (0 <= h < H) reads local KV head (head_begin + h) / group - kv_begin.
  int head_begin = 0, group = 1, kv_begin = 0;
  float scale = 0.0f;  // scores are scale * q.k
  int window = 0;      // sees positions in (p - window, p]; 0 = [0, p]
  BatchRows rows;
  const KvCache* cache = nullptr;
  int layer = 0;

  // Only a part of the positions (sequence parallelism). Row t sees places [begin[t], end[t]) of
  // its list of pages, nothing where end[t] <= 0 or end[t] <= begin[t]; positions and window are
  // not read and `out` is empty. A begin below 0: the pages before the list, a whole number of
  // splits, were attended by earlier calls, and the row's partial is continued. Any cut of a list
  // at split boundaries gives the same bits.
  std::span<const int32_t> begin, end;  // (T) both, or empty: positions and window decide
  Tensor partials;  // (T, H * (D + 2)): a head's sum of exp(score - best) * value, best, and total,
                    // the sum of exp(score - best). A row that sees nothing is not written.
};

// Puts partial attention together: per head, out row t merges the partial rows
// parts[begin[t]], ..., parts[begin[t + 1] - 1] in this order and divides by the total.
struct MergeArgs {
  Tensor partials;                 // (P, H * (D + 2)) as in AttentionArgs
  std::span<const int32_t> begin;  // (T + 1); at least one part for every row
  std::span<const int32_t> parts;  // rows of partials
  int heads = 0;
  int head_dim = 0;
  Tensor out;  // (T, H * D)
};

// One row of logits over a whole vocabulary and how its token is drawn, as worker/sampler.h has it.
struct DrawRow {
  int32_t row = 0;                   // of the logits
  uint32_t position = 0;             // absolute, of the token that is drawn
  double inverse_temperature = 0.0;  // 0: greedy, the first of the greatest logits
  double log_min = -1e300;           // (logit - max) / temperature must be at least this (min_p)
  uint64_t seed = 0;
  // Not for greedy rows: from the top_k greatest logits (0: from all), and of those from the least
  // number whose probabilities reach top_p (1: from all); ties stay in.
  uint32_t top_k = 0;
  float top_p = 1.0f;
  // The logits are changed first: DrawArgs::changes [begin, end). The last of them may name its
  // token by a DrawnId, as generated once; where the token stands in the list already, that entry
  // counts one more instead.
  int32_t changes_begin = 0, changes_end = 0;
  Penalties penalties;
  // At least 0: of the logits before any change, what log-probabilities are made of, and this many
  // of the greatest (at most kDrawnBestMax).
  int32_t best = -1;
  // At least 0: a token that takes the place of one drawn, for its logit; of a greedy row without
  // changes.
  int32_t known = -1;
};
struct DrawnToken {
  int32_t id = -1;
  float logit = 0.0f;  // raw
};
// For Embed and for LogitChange: the token that the last DrawTokens draws for its i-th row, which
// the host need not know yet.
constexpr int32_t DrawnId(int32_t i) { return -1 - i; }
inline constexpr int kDrawnBestMax = 20;  // what clients may ask for
struct DrawnScores {
  float max = 0.0f;                // the greatest logit
  uint64_t mass = 0;               // sum of MassOf(logit - max)
  DrawnToken best[kDrawnBestMax];  // the row's `best`, descending, ties to the lower id; behind the
                                   // last of the vocabulary id -1
};
// The part of a vocabulary whose logits a rank has, where several draw together: every rank the
// same rows, by the same parameters.
struct VocabPart {
  int rank = 0, ranks = 1;
  int32_t begin = 0;     // the token of the first column
  int64_t cols_max = 0;  // columns of the greatest part
  // Brings every rank's `bytes` of `all`, in rank order, to every rank, in the backend's stream:
  // this rank's lie in their place.
  std::function<void(void* all, size_t bytes)> gather;
};
// Tokens to be drawn: of each of `rows` one. `drawn` and `scores` are in host memory when a mark
// behind the call has been waited for, or Synchronize() has returned.
struct DrawArgs {
  Tensor logits;                    // (R, V), in: raw; out: of rows with changes undefined
  const VocabPart* part = nullptr;  // null: logits are of the whole vocabulary
  std::span<const DrawRow> rows;
  std::span<const LogitChange> changes;  // of all rows, whichever part their tokens are in
  std::span<DrawnToken> drawn;           // of each row
  std::span<DrawnScores> scores;         // of each row that asks; empty where none does
};
// Marks of a backend that have not been waited for, at most: one step computes, one is enqueued.
inline constexpr int kMarksMax = 2;

// Attention sums positions in splits of this many, aligned at place 0 of the list of pages, and
// merges the splits in ascending order: the unit of work that may be handed to another thread.
inline constexpr int kAttentionSplit = 256;

enum class GatedKind : uint8_t { kSilu, kGeluTanh };

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;  // "reference", "cpu", "cuda"
  virtual std::string Describe() const = 0;   // "cpu, AVX-512 VNNI, 2 threads"
  // All that decides bits besides the model: name, device where its kind matters, version of the
  // order of sums.
  virtual std::string NumericsFingerprint() const = 0;

  // Memory.
  virtual Result<std::unique_ptr<DeviceBuffer>> Allocate(size_t bytes) = 0;
  // Its memory is the host's: after Synchronize() it may be read where it lies.
  virtual bool host_memory() const { return false; }
  virtual void Upload(const void* host, void* device, size_t bytes) = 0;
  virtual void Download(const void* device, void* host, size_t bytes) = 0;  // after Synchronize()
  // From memory of the backend to memory of the backend; they do not overlap.
  virtual void Copy(const void* from, void* to, size_t bytes) = 0;
  virtual uint64_t FreeMemoryBytes() const = 0;  // what Allocate could still give, about
  // What ops on so many rows of so many columns come to take of it for themselves.
  virtual uint64_t ScratchBytes(int64_t /*rows*/, int64_t /*cols*/) const { return 0; }
  // Of a device's own memory: the same for all backends, of any process, that share it, and for no
  // others, 63 characters at most. Empty: the host's.
  virtual std::string MemoryId() const { return ""; }
  // For messages: "CUDA device 0 (NVIDIA H200)"; empty: no device, the host computes.
  virtual std::string DeviceName() const { return ""; }
  // Bytes a second that ops can read from a block of `bytes` of this memory: the ceiling of a step
  // that reads so much. Takes about a tenth of a second; 0 where there is no memory for the block.
  virtual double MeasureReadBandwidth(size_t bytes) = 0;
  // Parts are stacked along rows; they may differ in format, never in columns. An error is one of
  // memory, or of a part's `read`.
  virtual Result<std::unique_ptr<Weight>> PackWeight(std::span<const HostMatrix> parts) = 0;
  virtual Result<std::unique_ptr<KvCache>> AllocateKv(const KvShape& shape) = 0;

  // What the driving thread does now and then inside long ops, between pieces of work of some ten
  // microseconds: messages between ranks move on meanwhile. It calls no op. Empty: nothing.
  // Backends whose ops leave the driving thread free, or need no speed, never call it.
  virtual void SetTurn(std::function<void()> /*turn*/) {}

  // Waits until everything enqueued is done.
  virtual void Synchronize() = 0;
  // Steps ahead of the host. Mark() ends a step: all that was enqueued before it is done, as after
  // Synchronize(), when WaitFor(mark) has returned, which says whether it went well. Behind a mark
  // the next step may be enqueued, from other host arrays, before the mark has been waited for.
  // Marks are waited for in their order. A host's memory is written as ops return: its marks have
  // been reached when they are made.
  virtual uint64_t Mark() {
    Synchronize();
    return 0;
  }
  virtual bool Reached(uint64_t /*mark*/) { return true; }  // WaitFor would not wait
  virtual Status WaitFor(uint64_t /*mark*/) { return Health(); }
  // The first error of the device, after which ops do nothing: what they should have written is
  // undefined. Current after Synchronize(). A host's memory does not fail.
  virtual Status Health() const { return {}; }

  // For ranks that exchange the backend's memory where it is not the host's
  // (kernels/device_link.h).
  virtual Result<std::unique_ptr<DeviceLink>> NewLink();
  // Called now and then while the host waits for the device, or asks for a mark, and once more when
  // that is `over`; an error ends the wait and is the device's: what another rank should have sent
  // will not come.
  virtual void SetWatch(std::function<Status(bool over)> /*watch*/) {}

  // For traces. A stamp is a place behind all that was enqueued before: here, or in the queue of a
  // link, by its `stream` and as it launches. A device keeps stamps where it is timed
  // (BackendOptions) and within no Repeat; a host's ops are done when they return.
  virtual uint64_t Stamp(void* stream = nullptr);
  // When it was reached, in nanoseconds of steady_clock: of each stamp once, after Synchronize(). A
  // device's clock is read beside the host's then, to some 10 us; differences of the stamps of one
  // step are the device's own.
  virtual int64_t TakeStamp(uint64_t stamp) { return static_cast<int64_t>(stamp); }

  // Reading ahead, for backends whose ops wait for weights to come from memory (a decode step's):
  // hints that change no result and may be ignored.
  //
  // The next MatMul reads `next`, which lives until then. Its first bytes are brought nearer from
  // now on by each thread of the backend that has nothing else to do. Call it as soon as the MatMul
  // before has been called.
  virtual void Announce(const Weight& next) { static_cast<void>(next); }
  // For a driving thread that waits for something else, an all-reduce: brings 1 KiB of its own
  // share of the announced weight nearer, in some 100 ns. False when nothing is left to bring:
  // pause.
  virtual bool ReadAhead() { return false; }

  // out (T, D) = table row ids[t] - row_begin, times scale; zeros where it is not in the table
  // (vocabulary-parallel: the all-reduce adds the rank that has it). An id below 0 is a DrawnId, on
  // backends that draw.
  virtual void Embed(std::span<const int32_t> ids, const Weight& table, int32_t row_begin,
                     float scale, Tensor out) = 0;
  // out = x / sqrt(mean(x^2) + eps) * weight; (T, D) -> (T, D), weight (D). out may be x.
  virtual void RmsNorm(Tensor x, const float* weight, float eps, Tensor out) = 0;
  // out (T, N) = x (T, K) . w (N, K)^T + bias (N) or null.
  virtual void MatMul(Tensor x, const Weight& w, const float* bias, Tensor out) = 0;
  // Norms and rotates queries and keys; writes keys and values to the cache before anything reads.
  virtual void RopeAppend(const QkvArgs& args) = 0;
  virtual void Attention(const AttentionArgs& args) = 0;
  virtual void MergeAttention(const MergeArgs& args) = 0;
  // out (T, F) = act(gate_up[:, :F]) * gate_up[:, F:]; gate_up (T, 2F). out may be gate_up[:, :F].
  virtual void GatedActivation(Tensor gate_up, GatedKind kind, Tensor out) = 0;
  // GatedActivation of x (T, K) . gate_up (2F, K)^T; scratch (T, 2F) may be written, and out (T, F)
  // be its first columns. `next`, which is read by the next MatMul, is announced in the midst of
  // it.
  virtual void GatedMatMul(Tensor x, const Weight& gate_up, const Weight& next, GatedKind kind,
                           Tensor scratch, Tensor out) {
    MatMul(x, gate_up, nullptr, scratch);
    Announce(next);
    GatedActivation(scratch, kind, out);
  }
  // residual = residual * keep + (post_norm ? RmsNorm(delta, post_norm, eps) : delta). (T, D)
  virtual void AddResidual(Tensor residual, Tensor delta, float keep, const float* post_norm,
                           float eps) = 0;
  // What the next sub-block reads, from what the last one left: with delta = terms[0] + terms[1] +
  // ... in this order, AddResidual, then out = RmsNorm(residual, norm, eps). Each term is (T, D),
  // its rows one behind the other; several, at most 16 on a device, are the ranks' partial
  // outputs, in the backend's memory or mapped into it. keep 0: the residual is not read, and may
  // be a term. In one pass where the backend has one, with the bits of the ops that this one is
  // made of.
  virtual void AddResidualNorm(Tensor residual, std::span<const float* const> terms, float keep,
                               const float* post_norm, const float* norm, float eps, Tensor out);
  // out row i = x row rows[i].
  virtual void GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out) = 0;
  // One call between two marks or Synchronize(). For backends whose memory is not the host's:
  // downloading 8 bytes a row stands for 4 bytes a token of the vocabulary. The same draw as the
  // host's, bit for bit.
  virtual void DrawTokens(const DrawArgs& args);

  // Steps that repeat. `ops` calls ops of this backend alone, for `rows` rows; it may be called
  // twice and then does the same both times. A device keeps what it enqueues and launches it as one
  // when it comes again with the same tensors and sizes, whatever is in the host arrays. It has few
  // sizes when rows are filled up to PaddedRows(rows), by rows of position 0 of a sequence whose
  // page is -1: they store and attend nothing, and their results mean nothing.
  virtual int64_t PaddedRows(int64_t rows) const { return rows; }
  virtual void Repeat(int64_t /*rows*/, const std::function<void()>& ops) { ops(); }
};

struct BackendOptions {
  std::string name = "auto";  // auto | cpu | reference | cuda
  int threads = 1;
  // cpu only: auto | avx2 | avxvnni | avx512; a missing one is an error
  std::string isa = "auto";
  // cuda only: of those the driver shows; -1: the ranks of a host take them in turn.
  int device = -1;
  int rank_on_host = 0;
  // cuda only: the device's time is kept for what links do (LinkTimes) and for stamps; nothing is
  // repeated.
  bool timed = false;
};
// auto takes the first of cuda, cpu and reference that works here; `passed_over`, where given, is
// why it took none of those before, or empty.
Result<std::unique_ptr<Backend>> MakeBackend(const BackendOptions& options,
                                             std::string* passed_over = nullptr);

}  // namespace echelon
