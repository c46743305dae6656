// Communicators between processes: run by mpirun with 1 to 8 ranks (tests/parallel/CMakeLists.txt).
// Every rank runs every test; mpirun's status is the worst of theirs.
//
//   mpi_comm_test auto      ranks share memory
//   mpi_comm_test off       MPI carries everything
//   mpi_comm_test 2,1       as if the first two ranks were on one host, the third on another, the
//                           next two on one again ...; ranks of a "host" share memory
//   mpi_comm_test off sizes no test: rank 0 sends less than rank 1 expects, which must end both

#include "worker/comm/mpi_comm.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <time.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "common/random.h"
#include "common/strings.h"
#include "tests/support/comm_contract.h"

namespace echelon {
namespace {

MpiEnvironment* g_environment = nullptr;  // set once by main: MPI allows one per process

float PartialOf(int rank, int64_t i) {
  return UniformFor(7, rank, static_cast<uint32_t>(i >> 16), i & 0xffff) - 0.5f;
}

float SumInRankOrder(int size, int64_t i) {
  float sum = PartialOf(0, i);
  for (int rank = 1; rank < size; ++rank) sum += PartialOf(rank, i);
  return sum;
}

std::vector<float> Partials(int rank, int64_t count, int64_t offset = 0) {
  std::vector<float> data(count);
  for (int64_t i = 0; i < count; ++i) data[i] = PartialOf(rank, offset + i);
  return data;
}

void ExpectSum(const std::vector<float>& data, int size, int64_t offset = 0) {
  int64_t wrong = 0;
  for (size_t i = 0; i < data.size(); ++i) wrong += data[i] != SumInRankOrder(size, offset + i);
  EXPECT_EQ(wrong, 0) << "of " << data.size();
}

class MpiCommTest : public ::testing::Test {
 protected:
  std::unique_ptr<Communicator> comm_ = g_environment->World();
};

TEST_F(MpiCommTest, KeepsTheContract) {
  for (const std::string& broken : testing::CheckCommunicatorContract(*comm_))
    ADD_FAILURE() << broken;
}

// Sizes on both sides of one shot / two shots, of vader's (4 KiB) and TCP's (64 KiB) eager limits,
// and fewer elements than ranks.
TEST_F(MpiCommTest, SumsInRankOrderAtEverySize) {
  for (int64_t count : {0, 1, 3, 576, 1024, 9216, 16'384, 36'865, 589'824}) {
    std::vector<float> data = Partials(comm_->rank(), count);
    comm_->Wait(comm_->AllReduceSum(data.data(), count));
    SCOPED_TRACE(count);
    ExpectSum(data, comm_->size());
  }
}

TEST_F(MpiCommTest, ManyInFlightOfMixedSizesCompleteInOrder) {
  const int64_t counts[] = {576, 300'000, 1, 40'000, 576, 100'000};
  std::vector<std::vector<float>> data;
  for (int64_t count : counts) data.push_back(Partials(comm_->rank(), count, count));
  std::vector<CommHandle> handles;
  for (auto& values : data) {
    handles.push_back(comm_->AllReduceSum(values.data(), values.size()));
    if (comm_->rank() % 2 == 0) comm_->Poll();  // ranks progress differently
  }
  comm_->Wait(handles[3]);  // completes 0 to 3 as well
  for (int i = 0; i <= 3; ++i) ExpectSum(data[i], comm_->size(), counts[i]);
  comm_->Wait(handles.back());
  comm_->Wait(handles[0]);  // waiting again is nothing
  for (int i = 4; i < 6; ++i) ExpectSum(data[i], comm_->size(), counts[i]);
}

// A sum whose first shot needs a rendezvous (5.3 MiB slices with 3 ranks, TCP eager limit 4 MiB),
// then one whose first shot is eager and may be in before: their second shots must not be mixed up.
TEST_F(MpiCommTest, ASmallSumMayOvertakeALargeOne) {
  const int size = comm_->size();
  const auto value = [](int rank, uint32_t i) {
    return static_cast<float>((i * 2654435761u + rank * 40503u) >> 16);
  };
  const auto fill = [&](std::vector<float>& data, uint32_t offset) {
    for (size_t i = 0; i < data.size(); ++i) data[i] = value(comm_->rank(), offset + i);
  };
  const auto wrong = [&](const std::vector<float>& data, uint32_t offset) {
    int64_t count = 0;
    for (size_t i = 0; i < data.size(); ++i) {
      float sum = value(0, offset + i);
      for (int rank = 1; rank < size; ++rank) sum += value(rank, offset + i);
      count += data[i] != sum;
    }
    return count;
  };
  std::vector<float> large(4'200'000), small(60'000);
  fill(large, 0);
  fill(small, 77);
  comm_->AllReduceSum(large.data(), large.size());
  const CommHandle second = comm_->AllReduceSum(small.data(), small.size());
  comm_->Wait(second);
  EXPECT_EQ(wrong(large, 0), 0);
  EXPECT_EQ(wrong(small, 77), 0);
}

TEST_F(MpiCommTest, GathersInRankOrder) {
  const int size = comm_->size();
  const int64_t mine = 100 + comm_->rank();
  std::vector<int64_t> all(size);
  comm_->Wait(comm_->AllGather(&mine, all.data(), sizeof(mine)));
  for (int rank = 0; rank < size; ++rank) EXPECT_EQ(all[rank], 100 + rank);
}

TEST_F(MpiCommTest, BroadcastsFromEveryRoot) {
  for (int root = 0; root < comm_->size(); ++root) {
    std::vector<char> data(100'000, comm_->rank() == root ? 'a' + root : 0);
    comm_->Wait(comm_->Broadcast(data.data(), data.size(), root));
    EXPECT_EQ(std::vector<char>(100'000, 'a' + root), data);
  }
}

TEST_F(MpiCommTest, MessagesBetweenTwoRanksKeepTheirOrderBesideCollectives) {
  if (comm_->size() == 1) GTEST_SKIP() << "nobody to write to";
  const int size = comm_->size(), rank = comm_->rank();
  const int next = (rank + 1) % size, previous = (rank + size - 1) % size;
  std::vector<float> sum = Partials(rank, 5000);
  const CommHandle reduce = comm_->AllReduceSum(sum.data(), sum.size());
  std::vector<int> sent(64), got(64, -1);
  for (int i = 0; i < 64; ++i) {
    sent[i] = rank * 1000 + i;
    comm_->Recv(&got[i], sizeof(int), previous);
  }
  CommHandle last;
  for (int i = 0; i < 64; ++i) last = comm_->Send(&sent[i], sizeof(int), next);
  comm_->Wait(last);
  for (int i = 0; i < 64; ++i) EXPECT_EQ(got[i], previous * 1000 + i);
  comm_->Wait(reduce);
  ExpectSum(sum, size);
}

TEST_F(MpiCommTest, SplitsByColorOrderedByKey) {
  const int size = comm_->size(), rank = comm_->rank();
  const auto part = comm_->Split(rank % 2, -rank);  // reversed order
  const int members = (size + 1 - rank % 2) / 2;
  ASSERT_EQ(part->size(), members);
  std::vector<int> world_ranks(members);
  part->Wait(part->AllGather(&rank, world_ranks.data(), sizeof(int)));
  for (int i = 1; i < members; ++i) EXPECT_EQ(world_ranks[i], world_ranks[i - 1] - 2);
  EXPECT_EQ(world_ranks[part->rank()], rank);
}

TEST_F(MpiCommTest, StatsCountOperationsBytesAndTime) {
  comm_->TakeStats();
  std::vector<float> data = Partials(comm_->rank(), 1000);
  const CommHandle handle = comm_->AllReduceSum(data.data(), 1000);
  const timespec compute{0, 20'000'000};
  nanosleep(&compute, nullptr);
  comm_->Wait(handle);
  const CommStats stats = comm_->TakeStats();
  EXPECT_EQ(stats.operations, 1u);
  // To every other rank; between hosts of several ranks each needs only its share of the values.
  EXPECT_LE(stats.bytes_sent, 4000u * (comm_->size() - 1));
  EXPECT_GE(stats.bytes_sent, 1000u * (comm_->size() - 1));
  if (comm_->size() > 1) {
    EXPECT_GE(stats.hidden_seconds, 0.020);
  } else {
    EXPECT_EQ(stats.hidden_seconds, 0.0);  // nothing was ever sent
  }
  EXPECT_GE(stats.exposed_seconds, 0.0);
  EXPECT_EQ(comm_->TakeStats().operations, 0u);
}

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return t.tv_sec + 1e-6 * t.tv_usec; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// A rank that waits for the next plan must not burn its core: about 1 % of two seconds, where a
// rank that looks all the time takes at least what is its part of two cores shared by eight, 25 %.
TEST_F(MpiCommTest, WaitingSleeps) {
  if (comm_->size() == 1) GTEST_SKIP() << "nobody to wait for";
  char plan = 0;
  const double begin = CpuSeconds();
  if (comm_->rank() == 0) {
    const timespec idle{2, 0};
    nanosleep(&idle, nullptr);
  }
  comm_->Wait(comm_->Broadcast(&plan, 1, 0));
  EXPECT_LT(CpuSeconds() - begin, 0.2);
}

}  // namespace
}  // namespace echelon

// "2,1" -> hosts of two ranks and of one, in turns.
echelon::MpiOptions OptionsFrom(const std::string& word) {
  echelon::MpiOptions options;
  options.shared_memory = word != "off";
  if (word == "auto" || word == "off") return options;
  std::vector<int> ranks_of_hosts;
  for (const std::string& part : echelon::Split(word, ',')) {
    ranks_of_hosts.push_back(std::atoi(part.c_str()));
  }
  options.pretended_host = [ranks_of_hosts](int rank) {
    int host = 0;
    for (int left = rank; (left -= ranks_of_hosts[host % ranks_of_hosts.size()]) >= 0;) ++host;
    return host;
  };
  return options;
}

void SendLessThanExpected(echelon::Communicator& comm) {
  std::vector<char> data(4000);
  comm.Wait(comm.rank() == 0 ? comm.Send(data.data(), 32, 1) : comm.Recv(data.data(), 4000, 0));
}

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (argc < 2) return 2;
  auto environment = echelon::MpiEnvironment::Start(OptionsFrom(argv[1]));
  if (!environment.ok()) {
    std::fprintf(stderr, "%s\n", environment.error().message.c_str());
    return 1;
  }
  if (!(*environment)->shared_memory_problem().empty()) {
    std::fprintf(stderr, "%s\n", (*environment)->shared_memory_problem().c_str());
    return 1;  // what is to be tested would not run
  }
  if (argc == 3) {
    SendLessThanExpected(*(*environment)->World());
    return 0;
  }
  echelon::g_environment = environment->get();
  return RUN_ALL_TESTS();
}
