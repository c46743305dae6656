#pragma once
// Mail between the ranks of a host: what lies where in the memory that ranks share, and the kernels
// that put messages there and take them out.
//
// A message is cut into as many ranges as blocks carry it; each block of the sender passes its
// range to the block of that number of the receiver, piece by piece, through kMailSlots slots in
// the receiver's memory. The sender counts the pieces it has put in, in the receiver's memory; the
// receiver those it has taken out, in the sender's: a slot is written when its last piece is out,
// read when the next is in, and neither rank can be ahead of the other by more. All counts only
// grow and lie in device memory, so a launch has the same arguments each time (graphs).
//
// Four slots of 16 KiB and 16 blocks: 1 MiB on its way between two ranks, what a wire of 350 GB/s
// carries in the 3 us until a count comes back. A multiprocessor holds 5 waiting blocks of 256
// threads (46 registers on 9.0): 6 ranks that share a device at once, each in three groups of
// messages of 16 blocks, take 58 of its 132. 14 would take all, and what they wait for could not
// begin: only threads of a process or MPS run so, other processes take their turns on the whole
// device.

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/runtime.h"
#include "kernels/device_link.h"

namespace echelon::cuda {

inline constexpr int kMailRanksMax = DeviceLink::kMailRanksMax;
inline constexpr int kMailBlocks = 16;
inline constexpr int kMailThreads = 256;
inline constexpr int kMailSlots = 4;
inline constexpr int64_t kMailPieceBytes = int64_t{16} << 10;
// Messages of one launch; what is left of 4 KiB of arguments stays free.
inline constexpr int kMailItemsMax = 64;
static_assert(kMailRanksMax * kMailBlocks <= kMailThreads);  // the farewell: a thread a count
static_assert(2 * kMailRanksMax <= kMailItemsMax);           // an all-gather

// A rank's memory: this, then (ranks, kMailBlocks, kMailSlots, kMailPieceBytes) of pieces from
// each. Zero before others know of it.
struct alignas(256) MailCounts {
  // Written by the other rank: pieces it has put into this memory, taken out of its own.
  uint64_t put_in[kMailRanksMax][kMailBlocks];
  uint64_t taken_out[kMailRanksMax][kMailBlocks];
  // Written by this rank: pieces it has put into the other's memory, taken out of this one.
  uint64_t sent[kMailRanksMax][kMailBlocks];
  uint64_t received[kMailRanksMax][kMailBlocks];
  uint64_t given_up;  // 1: a wait was in vain, and there is none any more
};
inline constexpr size_t MailBytes(int ranks) {
  return sizeof(MailCounts) +
         static_cast<size_t>(ranks) * kMailBlocks * kMailSlots * kMailPieceBytes;
}

// A message to or from another rank.
struct MailItem {
  char* data;
  int64_t bytes;
  int16_t rank;
  int16_t after;  // the item before it of the same rank and direction; -1: none
  bool outgoing;
};
// What a kernel that gives up writes for the host: whom it waited for; 0: it has not.
inline constexpr uint64_t MailReport(int rank, bool outgoing) {
  return 1 + static_cast<uint64_t>(rank) * 2 + (outgoing ? 1 : 0);
}

struct MailParams {
  MailCounts* of_rank[kMailRanksMax];  // as this rank reaches them
  int rank, ranks;
  uint64_t wait_ns;      // without a piece coming or going
  uint64_t* report;      // page-locked
  const char* own_from;  // what this rank gathers of itself
  char* own_to;
  int64_t own_bytes;
  int item_count;
  MailItem items[kMailItemsMax];
};
static_assert(sizeof(MailParams) < 4096);

// How many blocks carry so many bytes; both ranks know it.
inline constexpr int MailBlocksFor(int64_t bytes) {
  const int64_t blocks = (bytes + kMailPieceBytes - 1) / kMailPieceBytes;
  return static_cast<int>(blocks < 1 ? 1 : blocks > kMailBlocks ? kMailBlocks : blocks);
}

void LaunchMail(Stream stream, const MailParams& params);
// Returns when all ranks have taken out what this one sent: they write no count here any more.
void LaunchMailFarewell(Stream stream, const MailParams& params);

}  // namespace echelon::cuda
