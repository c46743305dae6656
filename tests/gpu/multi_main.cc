// multi_rank: a rank of tests/gpu/run_multi on this machine's own devices.

#include "tests/gpu/multi_rank.h"

int main(int argc, char** argv) {
  return echelon::testing::RunMultiRank(argc, argv, echelon::MakeNcclLibrary);
}
