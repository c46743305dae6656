// Time of an all-reduce among ranks on this machine, by size; run by hand on an idle machine:
//   mpirun --bind-to none -n 2 build/tests/comm_bench auto     through memory that the ranks share
//   mpirun --bind-to none -n 2 build/tests/comm_bench off      through MPI
// The slowest rank's time counts, as in a step: median and 99th percentile over many sums. Then
// with what follows it in a step, residual and norm: the sum made first, and in one pass with them,
// in turn.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <vector>

#include "common/check.h"
#include "kernels/backend.h"
#include "worker/comm/mpi_comm.h"

namespace echelon {
namespace {

double NowUs() {
  using namespace std::chrono;
  return duration<double, std::micro>(steady_clock::now().time_since_epoch()).count();
}

int RepeatsOf(int64_t count) { return count > 10'000 ? 300 : 3000; }

// Of the slowest rank's times: the median and the 99th percentile, on rank 0.
struct Times {
  double median, p99;
};
Times SlowestOf(Communicator& comm, std::vector<double> times) {
  const size_t repeats = times.size();
  std::vector<double> all(repeats * comm.size());
  comm.Wait(comm.AllGather(times.data(), all.data(), repeats * sizeof(double)));
  for (size_t i = 0; i < repeats; ++i) {
    for (int r = 1; r < comm.size(); ++r) times[i] = std::max(times[i], all[r * repeats + i]);
  }
  std::sort(times.begin(), times.end());
  return {times[repeats / 2], times[repeats * 99 / 100]};
}

void Measure(Communicator& comm, int64_t count) {
  const int repeats = RepeatsOf(count);
  std::vector<float> data(count, 1.0f);
  std::vector<double> times(repeats);
  for (double& time : times) {
    std::fill(data.begin(), data.end(), 1.0f);  // the caller's values are in its cache, not others'
    const double begin = NowUs();
    comm.Wait(comm.AllReduceSum(data.data(), count));
    time = NowUs() - begin;
  }
  const Times slowest = SlowestOf(comm, times);
  if (comm.rank() != 0) return;
  const auto bytes = static_cast<double>(count * sizeof(float));
  std::printf("%9.0f bytes  median %8.2f us  p99 %8.2f us  %6.2f GB/s\n", bytes, slowest.median,
              slowest.p99, bytes / slowest.median / 1e3);
}

// All-reduce of (rows, cols), residual and norm.
void MeasureMerge(Communicator& comm, Backend& backend, int64_t rows, int64_t cols) {
  const int64_t count = rows * cols;
  std::vector<float> data(count), residual(count), normed(count), norm(cols, 1.0f);
  const auto matrix = [&](std::vector<float>& of, const SumRows& sum) {
    return Tensor(of.data(), rows, cols).Rows(sum.begin, sum.end);
  };
  const auto merge = [&](const SumRows& sum) {
    backend.AddResidualNorm(matrix(residual, sum), sum.terms, 1.0f, nullptr, norm.data(), 1e-5f,
                            matrix(normed, sum));
  };
  std::vector<double> apart(RepeatsOf(count)), together(apart.size());
  for (size_t i = 0; i < 2 * apart.size(); ++i) {
    const bool first = i % 2 == 0;
    std::fill(data.begin(), data.end(), 1.0f);
    const double begin = NowUs();
    const CommHandle handle = comm.AllReduceRows(data.data(), rows, cols);
    if (first) {
      const float* const sum = data.data();
      comm.Wait(handle);
      merge({0, rows, {&sum, 1}});
    } else {
      for (SumRows sum = comm.NextRows(handle); !sum.empty(); sum = comm.NextRows(handle)) {
        merge(sum);
      }
    }
    (first ? apart : together)[i / 2] = NowUs() - begin;
  }
  const Times one = SlowestOf(comm, apart), other = SlowestOf(comm, together);
  if (comm.rank() != 0) return;
  std::printf(
      "%4ld rows of %ld: sum, then residual and norm %8.2f us, in one pass %8.2f us (%.2f)\n",
      static_cast<long>(rows), static_cast<long>(cols), one.median, other.median,
      other.median / one.median);
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
  const auto backend = echelon::MakeBackend({.name = "cpu"});
  CHECK(backend.ok());
  for (const int64_t cols : {576, 2048}) {
    for (const int64_t rows : {1, 8, 32, 128, 512}) {
      echelon::MeasureMerge(*world, **backend, rows, cols);
    }
  }
  return 0;
}
