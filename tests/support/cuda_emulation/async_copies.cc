#include "tests/support/cuda_emulation/async_copies.h"

#include <cstring>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "tests/support/cuda_emulation/emulation.h"

namespace echelon::emulation {

namespace {

struct Copy {
  char* to;
  const char* from;
  size_t bytes;
};
using Set = std::vector<Copy>;

// A thread's, of one block.
struct Copies {
  Index block;
  Set begun;
  std::deque<Set> ended;
};

bool IsSame(const Index& a, const Index& b) { return a.x == b.x && a.y == b.y && a.z == b.z; }

// Blocks run one after the other on a thread of the host.
Copies& OfThisThread() {
  thread_local std::map<unsigned, Copies> of_threads;
  const Fiber& fiber = Current();
  Copies& copies = of_threads[fiber.thread.x];
  if (!IsSame(copies.block, fiber.block)) {
    for (const Set& set : copies.ended) {
      if (!set.empty()) Fail("a block ended with copies that nobody awaited");
    }
    copies = {fiber.block, {}, {}};
  }
  return copies;
}

}  // namespace

void BeginCopy(char* to_shared, const char* from, size_t bytes) {
  OfThisThread().begun.push_back({to_shared, from, bytes});
}

void EndCopies() {
  Copies& copies = OfThisThread();
  copies.ended.push_back(std::exchange(copies.begun, {}));
}

void AwaitCopies(int left) {
  Copies& copies = OfThisThread();
  while (copies.ended.size() > static_cast<size_t>(left)) {
    for (const Copy& copy : copies.ended.front()) std::memcpy(copy.to, copy.from, copy.bytes);
    copies.ended.pop_front();
  }
}

}  // namespace echelon::emulation
