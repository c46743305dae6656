#pragma once
// VocabExchange: how the sampler's tensor-parallel ranks tell each other small things about their
// parts of the vocabulary. Every rank calls with the same number of values, in the same order.

#include <cstdint>
#include <type_traits>
#include <vector>

#include "worker/comm/communicator.h"

namespace echelon {

class VocabExchange {
 public:
  // The communicator (host memory) outlives this object.
  explicit VocabExchange(Communicator& tp) : tp_(tp) {}

  int ranks() const { return tp_.size(); }

  // Every rank's values: element r * mine.size() + i is value i of rank r.
  template <typename T>
  requires std::is_trivially_copyable_v<T> std::vector<T> Gather(const std::vector<T>& mine) {
    if (mine.empty() || tp_.size() == 1) return mine;
    std::vector<T> all(mine.size() * tp_.size());
    tp_.Wait(tp_.AllGather(mine.data(), all.data(), mine.size() * sizeof(T)));
    return all;
  }

  // Sums over the ranks, in place. Integers: exact in any order.
  void Sum(std::vector<uint64_t>& values) {
    if (tp_.size() == 1) return;
    const std::vector<uint64_t> all = Gather(values);
    const size_t count = values.size();
    values.assign(count, 0);
    for (size_t i = 0; i < all.size(); ++i) values[i % count] += all[i];
  }

 private:
  Communicator& tp_;
};

}  // namespace echelon
