#pragma once
// Logits cut over the vocabulary among threads as ranks, for the sampler's tests.

#include <functional>
#include <thread>
#include <vector>

#include "common/parallel_layout.h"
#include "common/random.h"
#include "worker/comm/local_comm.h"

namespace echelon::testing {

// Runs body(part of the vocabulary, endpoint) on each of `tp` ranks.
inline void OnVocabRanks(int64_t vocab, int tp,
                         const std::function<void(Range, Communicator&)>& body) {
  auto endpoints = MakeLocalCommunicators(tp);
  std::vector<std::thread> threads;
  for (int r = 0; r < tp; ++r) {
    threads.emplace_back([&, r] { body(SplitEvenly(vocab, tp, r, kVocabUnit), *endpoints[r]); });
  }
  for (auto& thread : threads) thread.join();
}

// Logits like a language model's: a few likely tokens, a long tail; some exactly equal.
inline std::vector<float> RandomLogits(int64_t vocab, uint64_t seed) {
  std::vector<float> logits;
  for (int64_t i = 0; i < vocab; ++i) {
    const double u = UniformFor(seed, 0, 1, static_cast<uint32_t>(i));
    const double v = UniformFor(seed, 0, 2, static_cast<uint32_t>(i));
    const auto rounded = static_cast<float>(static_cast<int>(60.0 * u * u * v)) / 4.0f - 5.0f;
    logits.push_back(i % 3 == 0 ? rounded : static_cast<float>(15.0 * u * u * v - 5.0));
  }
  return logits;
}

}  // namespace echelon::testing
