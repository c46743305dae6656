#pragma once
// What every rank must have in common before any of them loads: ranks with other weights or other
// arithmetic would answer nonsense, or hang in messages of other sizes. The coordinator compares
// the same fingerprints once more when the ranks are ready.

#include <string>

#include "common/result.h"
#include "kernels/backend.h"
#include "worker/comm/communicator.h"

namespace echelon {

struct RankCard {
  std::string host;
  std::string weights;   // Checkpoint::Fingerprint
  std::string numerics;  // Backend::NumericsFingerprint
  // Pipeline stages that may compute with different backends have different numbers, from 0 on.
  int stage = 0;
  std::string passed_over;  // why it took no better backend: MakeBackend of "auto"
};

// Collective: every rank gets the same answer, an error that names the two ranks that differ, in
// what, and what to do; else the numerics of the group: those of its stages, where they differ one
// after the other.
Result<std::string> CheckAgreement(Communicator& world, const RankCard& mine);

// Of the memory that a rank's backend takes from.
struct MemoryShare {
  int ranks = 1;            // that take from it: a device's as their backends say, else the host's
  uint64_t free_bytes = 0;  // this rank's part of what was free before any of them took some
};
// Collective; before the ranks load.
MemoryShare ShareMemory(Communicator& world, const Backend& backend, int ranks_on_host);

}  // namespace echelon
