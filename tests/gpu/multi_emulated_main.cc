// multi_rank_emulated: the same on emulated devices, which NCCL, played between processes, joins.

#include <algorithm>
#include <cstring>

#include "tests/gpu/multi_rank.h"
#include "tests/support/cuda_emulation/emulation.h"
#include "tests/support/worker/process_nccl.h"

int main(int argc, char** argv) {
  using namespace echelon;
  // Streams that wait for other ranks run by themselves; else they run late, which finds more.
  const bool staged = std::any_of(
      argv, argv + argc, [](const char* word) { return std::strcmp(word, "staged") == 0; });
  emulation::SetEager(!staged);
  return testing::RunMultiRank(argc, argv, []() -> Result<std::unique_ptr<NcclLibrary>> {
    const testing::PlayedDevice device{emulation::EnqueueOn, emulation::CopyDevice};
    return std::unique_ptr<NcclLibrary>(std::make_unique<testing::ProcessNccl>(device));
  });
}
