#include "worker/agreement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "worker/comm/local_comm.h"

namespace echelon {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

// Every rank's message; the group's numerics where it agrees.
std::vector<std::string> Check(const std::vector<RankCard>& cards) {
  auto ranks = MakeLocalCommunicators(static_cast<int>(cards.size()));
  std::vector<std::string> messages(cards.size());
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < cards.size(); ++rank) {
    threads.emplace_back([&, rank] {
      const Result<std::string> agreed = CheckAgreement(*ranks[rank], cards[rank]);
      messages[rank] = agreed.ok() ? *agreed : agreed.error().message;
    });
  }
  for (std::thread& thread : threads) thread.join();
  return messages;
}

TEST(Agreement, SameCardsAgreeAcrossHosts) {
  EXPECT_THAT(Check({{"a", "w", "n"}, {"b", "w", "n"}, {"b", "w", "n"}}), Each("n"));
}

TEST(Agreement, EveryRankLearnsWhichWeightsDiffer) {
  EXPECT_THAT(Check({{"a", "w", "n"}, {"b", "w", "n"}, {"c", "w2", "n"}}),
              Each(AllOf(HasSubstr("rank 2 on host c has weights w2, rank 0 on host a has w"),
                         HasSubstr("copy the same ones"))));
}

TEST(Agreement, EveryRankLearnsWhichNumericsDiffer) {
  EXPECT_THAT(
      Check({{"a", "w", "cpu avx2"}, {"b", "w", "cpu avx512"}}),
      Each(HasSubstr("rank 1 on host b has numerics cpu avx512, rank 0 on host a has cpu avx2")));
}

TEST(Agreement, EveryRankLearnsWhyOneFellBackToTheCpu) {
  EXPECT_THAT(
      Check({{"a", "w", "cuda/sm90"},
             {"b", "w", "cpu/avx2", 0, "backend \"cuda\": this host has no NVIDIA driver"}}),
      Each(HasSubstr("rank 1 on host b has numerics cpu/avx2 (auto: backend \"cuda\": this "
                     "host has no NVIDIA driver), rank 0 on host a has cuda/sm90: ")));
}

TEST(Agreement, LongTextsDoNotOverflow) {
  const std::string longest(5000, 'x');
  EXPECT_THAT(Check({{longest, longest, longest}, {longest, longest, longest}}),
              Each(HasSubstr("xxx")));
}

TEST(Agreement, StagesMayComputeDifferentlyAndTheirRanksMayNot) {
  EXPECT_THAT(Check({{"a", "w", "cpu", 0}, {"b", "w", "cuda", 1}, {"b", "w", "cuda", 1}}),
              Each("cpu then cuda"));
  EXPECT_THAT(Check({{"a", "w", "cpu", 0}, {"b", "w", "cuda", 1}, {"c", "w", "cuda2", 1}}),
              Each(HasSubstr("rank 2 on host c has numerics cuda2, rank 1 on host b has cuda:")));
}

}  // namespace
}  // namespace echelon
