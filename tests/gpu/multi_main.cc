// multi_rank: a rank of tests/gpu/run_multi on this machine's own devices.

#include <unistd.h>

#include <cstdio>

#include "tests/gpu/multi_rank.h"

int main(int argc, char** argv) {
  const int status = echelon::testing::RunMultiRank(argc, argv, echelon::MakeNcclLibrary);
  std::fflush(nullptr);
  _exit(status);  // as echelon-worker does
}
