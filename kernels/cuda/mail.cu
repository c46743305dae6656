// Mail between ranks: one kernel for all messages of a launch, sent and received at once, so that
// no order among them can hold up two ranks that wait for each other.

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/mail.h"

namespace echelon::cuda {

namespace {

// Contiguous memory, by all threads of the block; at 16 bytes each where both ends are aligned.
__device__ void CopyBytes(char* to, const char* from, int64_t bytes) {
  const uintptr_t misaligned = reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from);
  int64_t done = 0;
  if (misaligned % 16 == 0) {
    // Four loads in flight: a piece is four of every thread.
    for (int64_t i = threadIdx.x; i < bytes / 16; i += 4 * kMailThreads) {
      Bytes16 chunks[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t at = i + j * kMailThreads;
        if (at < bytes / 16) chunks[j] = Read16(from + 16 * at);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t at = i + j * kMailThreads;
        if (at < bytes / 16) Write16(to + 16 * at, chunks[j]);
      }
    }
    done = bytes / 16 * 16;
  } else if (misaligned % 4 == 0) {
    for (int64_t i = threadIdx.x; i < bytes / 4; i += kMailThreads) {
      reinterpret_cast<uint32_t*>(to)[i] = reinterpret_cast<const uint32_t*>(from)[i];
    }
    done = bytes / 4 * 4;
  }
  for (int64_t i = done + threadIdx.x; i < bytes; i += kMailThreads) to[i] = from[i];
}

struct Range {
  int64_t begin, bytes;
};
// This block's part of a message; begins at a multiple of 16.
__device__ Range RangeOf(int64_t bytes) {
  const int64_t blocks = MailBlocksFor(bytes);
  const int64_t per = ((bytes + blocks - 1) / blocks + 15) / 16 * 16;
  const int64_t begin = per * blockIdx.x;
  if (begin >= bytes) return {0, 0};
  return {begin, bytes - begin < per ? bytes - begin : per};
}

__device__ int64_t PiecesOf(int64_t bytes) {
  return (bytes + kMailPieceBytes - 1) / kMailPieceBytes;
}

__device__ char* SlotOf(MailCounts* memory, int from, uint64_t piece) {
  const auto box = static_cast<int64_t>(from) * kMailBlocks + blockIdx.x;
  const auto slot = box * kMailSlots + static_cast<int64_t>(piece % kMailSlots);
  return reinterpret_cast<char*>(memory + 1) + slot * kMailPieceBytes;
}

// What a block knows of its items.
struct Progress {
  Range range[kMailItemsMax];
  int64_t done[kMailItemsMax];       // bytes of the range
  int64_t now[kMailItemsMax];        // bytes of this turn
  uint64_t piece[kMailItemsMax];     // with which this turn begins
  uint64_t counts[2][kMailRanksMax];  // of pieces received from, sent to each rank
  bool gives_up;
};

// Thread `i` sees what can be passed of item i without waiting.
__device__ void Look(const MailParams& p, int i, Progress& at) {
  const MailItem& item = p.items[i];
  at.now[i] = 0;
  const bool begun = item.after < 0 || at.done[item.after] == at.range[item.after].bytes;
  const int64_t left = at.range[i].bytes - at.done[i];
  if (!begun || left == 0) return;
  const MailCounts& own = *p.of_rank[p.rank];
  const uint64_t count = at.counts[item.outgoing][item.rank];
  const uint64_t theirs = item.outgoing ? ReadAcquire(&own.taken_out[item.rank][blockIdx.x])
                                        : ReadAcquire(&own.put_in[item.rank][blockIdx.x]);
  const uint64_t pieces = item.outgoing ? theirs + kMailSlots - count : theirs - count;
  const auto room = static_cast<int64_t>(pieces) * kMailPieceBytes;
  at.now[i] = left < room ? left : room;
  at.piece[i] = count;
}

// The whole block passes what this turn has of an item.
__device__ void PassPieces(const MailParams& p, int i, const Progress& at) {
  const MailItem& item = p.items[i];
  MailCounts* const box = p.of_rank[item.outgoing ? item.rank : p.rank];
  const int from = item.outgoing ? p.rank : item.rank;
  char* const data = item.data + at.range[i].begin + at.done[i];
  for (int64_t k = 0; k < PiecesOf(at.now[i]); ++k) {
    const int64_t begin = k * kMailPieceBytes;
    const int64_t bytes =
        at.now[i] - begin < kMailPieceBytes ? at.now[i] - begin : kMailPieceBytes;
    char* const slot = SlotOf(box, from, at.piece[i] + k);
    if (item.outgoing) {
      CopyBytes(slot, data + begin, bytes);
    } else {
      CopyBytes(data + begin, slot, bytes);
    }
  }
}

// Thread `i` counts what was passed and tells the other rank; the block has met at a barrier.
__device__ void Tell(const MailParams& p, int i, Progress& at) {
  if (at.now[i] == 0) return;
  const MailItem& item = p.items[i];
  const uint64_t count = at.piece[i] + static_cast<uint64_t>(PiecesOf(at.now[i]));
  at.done[i] += at.now[i];
  at.counts[item.outgoing][item.rank] = count;
  MailCounts& theirs = *p.of_rank[item.rank];
  WriteRelease(item.outgoing ? &theirs.put_in[p.rank][blockIdx.x]
                             : &theirs.taken_out[p.rank][blockIdx.x],
               count);
}

// Of the first item that waits.
__device__ void GiveUp(const MailParams& p, const Progress& at) {
  for (int i = 0; i < p.item_count; ++i) {
    if (at.done[i] == at.range[i].bytes) continue;
    WriteRelease(p.report, MailReport(p.items[i].rank, p.items[i].outgoing));
    WriteRelease(&p.of_rank[p.rank]->given_up, 1);
    return;
  }
}

__global__ void MailKernel(MailParams p) {
  __shared__ Progress at;
  MailCounts& own = *p.of_rank[p.rank];
  const int i = static_cast<int>(threadIdx.x), b = static_cast<int>(blockIdx.x);
  if (i < p.item_count) {
    at.range[i] = RangeOf(p.items[i].bytes);
    at.done[i] = 0;
  }
  if (i < p.ranks) {
    at.counts[0][i] = own.received[i][b];
    at.counts[1][i] = own.sent[i][b];
  }
  if (i == 0) at.gives_up = ReadAcquire(&own.given_up) != 0;
  const Range of_own = RangeOf(p.own_bytes);
  CopyBytes(p.own_to + of_own.begin, p.own_from + of_own.begin, of_own.bytes);
  uint64_t since = Nanoseconds();
  for (;;) {
    __syncthreads();
    if (at.gives_up) break;
    if (i < p.item_count) Look(p, i, at);
    __syncthreads();
    bool moves = false, waits = false;
    for (int k = 0; k < p.item_count; ++k) {
      moves = moves || at.now[k] > 0;
      waits = waits || at.done[k] < at.range[k].bytes;
      if (at.now[k] > 0) PassPieces(p, k, at);
    }
    if (!waits) break;
    __syncthreads();
    if (moves) {
      if (i < p.item_count) Tell(p, i, at);
      since = Nanoseconds();
    } else if (i == 0) {
      Pause();
      at.gives_up = Nanoseconds() - since > p.wait_ns;
      if (at.gives_up) GiveUp(p, at);
    }
  }
  if (i < p.ranks) {
    own.received[i][b] = at.counts[0][i];
    own.sent[i][b] = at.counts[1][i];
  }
}

__global__ void MailFarewellKernel(MailParams p) {
  const MailCounts& own = *p.of_rank[p.rank];
  const int rank = static_cast<int>(threadIdx.x) / kMailBlocks;
  const int block = static_cast<int>(threadIdx.x) % kMailBlocks;
  if (rank >= p.ranks || own.given_up != 0) return;
  const uint64_t since = Nanoseconds();
  while (ReadAcquire(&own.taken_out[rank][block]) != own.sent[rank][block] &&
         Nanoseconds() - since < p.wait_ns) {
    Pause();
  }
}

}  // namespace

void LaunchMail(Stream stream, const MailParams& params) {
  int blocks = MailBlocksFor(params.own_bytes);
  for (int i = 0; i < params.item_count; ++i) {
    const int needed = MailBlocksFor(params.items[i].bytes);
    blocks = needed > blocks ? needed : blocks;
  }
  LaunchTogether(stream, static_cast<unsigned>(blocks), kMailThreads, MailKernel, params);
}

void LaunchMailFarewell(Stream stream, const MailParams& params) {
  LaunchTogether(stream, 1, kMailThreads, MailFarewellKernel, params);
}

}  // namespace echelon::cuda
