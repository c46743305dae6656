#include "worker/token_ring.h"

#include <gtest/gtest.h>

#include "worker/comm/local_comm.h"

namespace echelon {
namespace {

constexpr SequenceId kA = 1, kB = 2, kC = 3;

StepPlan Sampling(std::vector<SequenceId> ids, std::vector<SequenceId> released = {}) {
  StepPlan plan;
  plan.released = std::move(released);
  for (const SequenceId id : ids) {
    SequenceStep step;
    step.id = id;
    step.sample = true;
    plan.sequences.push_back(step);
  }
  return plan;
}

// First and last of three stages, driven by one thread: a local send does not wait for its reader.
class TokenRingTest : public ::testing::Test {
 protected:
  std::vector<std::unique_ptr<Communicator>> stages_ = MakeLocalCommunicators(3);
  TokenRing first_{*stages_[0]};
  TokenRing last_{*stages_[2]};
};

TEST_F(TokenRingTest, TokensComeInTheOrderOfThePlans) {
  first_.Expect(Sampling({kA, kB}));
  first_.Expect(Sampling({}));
  first_.Expect(Sampling({kC}));
  last_.Deliver(Sampling({kA, kB}), {5, 6});
  last_.Deliver(Sampling({}), {});
  last_.Deliver(Sampling({kC}), {7});
  EXPECT_EQ(first_.TokenOf(kC), 7);
  EXPECT_EQ(first_.TokenOf(kA), 5);
  EXPECT_EQ(first_.TokenOf(kB), 6);
  EXPECT_EQ(last_.TokenOf(kB), 6);
}

TEST_F(TokenRingTest, TheNewestTokenOfASequenceCounts) {
  first_.Expect(Sampling({kA}));
  first_.Expect(Sampling({kA, kB}));
  last_.Deliver(Sampling({kA}), {5});
  last_.Deliver(Sampling({kA, kB}), {8, 9});
  EXPECT_EQ(first_.TokenOf(kA), 8);
}

// A sequence that is released and begins again under its id never sees the token of its first life.
TEST_F(TokenRingTest, ATokenOnItsWayDiesWithItsSequence) {
  first_.Expect(Sampling({kA}));
  first_.Expect(Sampling({kB}, {kA}));
  first_.Expect(Sampling({kA}));
  last_.Deliver(Sampling({kA}), {5});
  last_.Forget({kA});
  last_.Deliver(Sampling({kB}), {6});
  last_.Deliver(Sampling({kA}), {7});
  EXPECT_EQ(first_.TokenOf(kB), 6);
  EXPECT_EQ(first_.TokenOf(kA), 7);
}

TEST_F(TokenRingTest, TokensNobodyAsksForAreTakenUpAllTheSame) {
  for (int32_t step = 0; step < 1000; ++step) {
    last_.Deliver(Sampling({kA}), {step});
    first_.Expect(Sampling({kA}));
  }
  EXPECT_EQ(first_.TokenOf(kA), 999);
}

TEST(TokenRing, OneStageKeepsItsOwn) {
  const auto stages = MakeLocalCommunicators(1);
  TokenRing ring(*stages[0]);
  ring.Expect(Sampling({kA}));
  ring.Deliver(Sampling({kA}), {4});
  EXPECT_EQ(ring.TokenOf(kA), 4);
}

}  // namespace
}  // namespace echelon
