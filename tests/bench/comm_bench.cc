// Time of an all-reduce among ranks on this machine, by size; run by hand on an idle machine:
//   mpirun -n 2 build/tests/comm_bench auto     through memory that the ranks share
//   mpirun -n 2 build/tests/comm_bench off      through MPI
// The slowest rank's time counts, as in a step: median and 99th percentile over many sums.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <vector>

#include "worker/comm/mpi_comm.h"

namespace echelon {
namespace {

double NowUs() {
  using namespace std::chrono;
  return duration<double, std::micro>(steady_clock::now().time_since_epoch()).count();
}

void Measure(Communicator& comm, int64_t count) {
  const int repeats = count > 10'000 ? 300 : 3000;
  std::vector<float> data(count, 1.0f);
  std::vector<double> times(repeats), all(repeats * comm.size());
  for (double& time : times) {
    std::fill(data.begin(), data.end(), 1.0f);  // the caller's values are in its cache, not others'
    const double begin = NowUs();
    comm.Wait(comm.AllReduceSum(data.data(), count));
    time = NowUs() - begin;
  }
  comm.Wait(comm.AllGather(times.data(), all.data(), repeats * sizeof(double)));
  if (comm.rank() != 0) return;
  for (int i = 0; i < repeats; ++i) {
    for (int r = 1; r < comm.size(); ++r) times[i] = std::max(times[i], all[r * repeats + i]);
  }
  std::sort(times.begin(), times.end());
  const double median = times[repeats / 2];
  const auto bytes = static_cast<double>(count * sizeof(float));
  std::printf("%9.0f bytes  median %8.2f us  p99 %8.2f us  %6.2f GB/s\n", bytes, median,
              times[repeats * 99 / 100], bytes / median / 1e3);
}

}  // namespace
}  // namespace echelon

int main(int argc, char** argv) {
  echelon::MpiOptions options;
  options.shared_memory = argc < 2 || std::strcmp(argv[1], "off") != 0;
  const auto environment = echelon::MpiEnvironment::Start(options);
  if (!environment.ok()) return 1;
  const auto world = (*environment)->World();
  // One value; a row of 576, 16 and 512 rows of it.
  for (const int64_t count : {1, 576, 16 * 576, 512 * 576}) echelon::Measure(*world, count);
  return 0;
}
