#include "tests/support/cuda_emulation/emulation.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "common/check.h"
#include "common/half.h"
#include "common/strings.h"
#include "tests/support/cuda_emulation/block_shared.h"

// Saves the caller's registers on its stack and goes on with those on another: what swapcontext
// does without its two system calls, of which a block of 256 threads would make thousands.
extern "C" void echelon_switch_stack(void** save, void* load);
asm(R"(
.text
.globl echelon_switch_stack
.type echelon_switch_stack, @function
echelon_switch_stack:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size echelon_switch_stack, .-echelon_switch_stack
)");

namespace echelon::emulation {

namespace {

constexpr size_t kStackBytes = size_t{64} << 10;
constexpr unsigned kThreadsMax = 1024;

enum class Wait { kNone, kBlock, kWarp, kDone };

struct Thread {
  void* context = nullptr;  // top of its stack while it waits
  std::unique_ptr<char[]> stack;
  Fiber fiber;
  Wait wait = Wait::kNone;
  // What it gives the other lanes in a shuffle or matrix product. Two, in turn: a lane may come to
  // the next exchange while others still read this one, but no further.
  struct Given {
    float value = 0.0f;
    double a[4][2], b[2][2];  // pairs
  };
  Given given[2];
  unsigned exchanges = 0;
};

// Runs blocks one after the other. Kernels that run at once have one each.
class Machine {
 public:
  void Run(std::span<const Index> blocks, const LaunchShape& shape,
           const std::function<void()>& body) {
    kernel_ = shape.kernel;
    body_ = &body;
    while (threads_.size() < shape.threads) threads_.push_back(std::make_unique<Thread>());
    CHECK(TheMachine() == nullptr);
    TheMachine() = this;
    for (const Index& block : blocks) {
      shared_.Begin(shape.kernel, shape.shared_bytes);
      RunBlock(block, shape.grid, shape.threads);
      shared_.End();
    }
    TheMachine() = nullptr;
  }

  // That of the running thread; null outside a kernel.
  static Machine*& TheMachine() {
    static thread_local Machine* machine = nullptr;
    return machine;
  }

  Thread& current() { return *threads_[current_]; }
  char* shared() const { return shared_.launched(); }
  std::string Describe() {
    const Fiber& fiber = current().fiber;
    return StrCat(Symbols::ForReaders(TheSymbols().NameOf(kernel_)), ", block (", fiber.block.x,
                  ", ", fiber.block.y, ", ", fiber.block.z, "), thread ", fiber.thread.x);
  }

  void Pause(Wait wait) {
    Thread& thread = current();
    thread.wait = wait;
    echelon_switch_stack(&thread.context, scheduler_);
  }
  // An exchange between the lanes of the running thread's warp: put() fills what this lane gives;
  // then all have, and what lane l gave is Of(l) until the next exchange but one.
  template <typename Put>
  unsigned Exchange(const Put& put) {
    const unsigned turn = current().exchanges++ % 2;
    put(current().given[turn]);
    Pause(Wait::kWarp);
    return turn;
  }
  const Thread::Given& Of(int lane, unsigned turn) const {
    return threads_[current_ / 32 * 32 + static_cast<size_t>(lane)]->given[turn];
  }
  int lane() const { return static_cast<int>(current_ % 32); }

 private:
  static void Enter();

  void RunBlock(Index block, Index grid, unsigned threads) {
    for (unsigned i = 0; i < threads; ++i) Prepare(*threads_[i], {{i, 0, 0}, block, grid});
    for (;;) {
      // Another order each turn: from another thread on, forwards or backwards.
      ++turn_;
      const unsigned first = (turn_ * 37) % threads;
      bool all_done = true;
      for (unsigned i = 0; i < threads; ++i) {
        const unsigned at = (turn_ % 2 == 0 ? first + i : first + threads - i) % threads;
        Thread& thread = *threads_[at];
        if (thread.wait == Wait::kNone) {
          current_ = at;
          echelon_switch_stack(&scheduler_, thread.context);
        }
        all_done = all_done && thread.wait == Wait::kDone;
      }
      if (all_done) return;
      Release(threads);
    }
  }

  void Prepare(Thread& thread, const Fiber& fiber) {
    if (!thread.stack) thread.stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
    thread.fiber = fiber;
    thread.wait = Wait::kNone;
    thread.exchanges = 0;
    // Six registers and the address to begin at, which lies at a multiple of 16.
    const auto top = reinterpret_cast<uintptr_t>(thread.stack.get()) + kStackBytes - 64;
    auto* begin = reinterpret_cast<void**>(top / 16 * 16);
    *begin = reinterpret_cast<void*>(&Enter);
    std::fill(begin - 6, begin, nullptr);
    thread.context = begin - 6;
  }

  // Every thread waits or is done. A warp goes on when all its lanes wait for it, the block when
  // all its threads do.
  void Release(unsigned threads) {
    bool released = false;
    for (unsigned warp = 0; warp < threads; warp += 32) {
      if (!All(warp, warp + 32, Wait::kWarp)) continue;
      Wake(warp, warp + 32);
      released = true;
    }
    if (released) return;
    CHECK_MSG(All(0, threads, Wait::kBlock),
              "a barrier or shuffle that some threads of the block do not reach");
    Wake(0, threads);
  }
  bool All(unsigned begin, unsigned end, Wait wait) const {
    return std::all_of(threads_.begin() + begin, threads_.begin() + end,
                       [&](const auto& thread) { return thread->wait == wait; });
  }
  void Wake(unsigned begin, unsigned end) {
    for (unsigned i = begin; i < end; ++i) threads_[i]->wait = Wait::kNone;
  }

  void* scheduler_ = nullptr;
  std::vector<std::unique_ptr<Thread>> threads_;
  BlockShared shared_;
  const void* kernel_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  size_t current_ = 0;
  unsigned turn_ = 0;
};

void Machine::Enter() {
  Machine& machine = *TheMachine();
  (*machine.body_)();
  machine.Pause(Wait::kDone);
}

Machine& TheMachine() { return *Machine::TheMachine(); }

// Machines between kernels: their stacks are kept.
class Pool {
 public:
  std::unique_ptr<Machine> Take() {
    const std::lock_guard lock(mutex_);
    if (machines_.empty()) return std::make_unique<Machine>();
    auto machine = std::move(machines_.back());
    machines_.pop_back();
    return machine;
  }
  void Give(std::unique_ptr<Machine> machine) {
    const std::lock_guard lock(mutex_);
    machines_.push_back(std::move(machine));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Machine>> machines_;
};
Pool& ThePool() {
  static Pool pool;
  return pool;
}

// An access that the host's memory management refuses: says where, and lets the program end by it.
void SayWhere(int signal, siginfo_t* info, void*) {
  std::string what = TheArena().Explain(info->si_addr);
  Machine* const machine = Machine::TheMachine();
  if (machine != nullptr || !what.empty()) {
    const std::string who = machine != nullptr ? machine->Describe() : "a copy, or the host,";
    if (what.empty()) what = StrCat("no device memory, address ", info->si_addr);
    what = StrCat("emulated device: ", who, " touches ", what, "\n");
    if (write(STDERR_FILENO, what.data(), what.size()) < 0) _exit(1);
  }
  ::signal(signal, SIG_DFL);  // the access is tried again
}

void RunBlocks(std::span<const Index> blocks, const LaunchShape& shape,
               const std::function<void()>& body) {
  CHECK(shape.threads > 0 && shape.threads <= kThreadsMax && shape.threads % 32 == 0);
  CHECK(shape.grid.y <= 65535 && shape.grid.z <= 65535);
  const OpenMemory open;
  auto machine = ThePool().Take();
  machine->Run(blocks, shape, body);
  ThePool().Give(std::move(machine));
}

}  // namespace

const Fiber& Current() { return TheMachine().current().fiber; }

void ExplainFaults() {
  struct sigaction action = {};
  action.sa_sigaction = SayWhere;
  action.sa_flags = SA_SIGINFO;
  CHECK(sigaction(SIGSEGV, &action, nullptr) == 0 && sigaction(SIGBUS, &action, nullptr) == 0);
}

void RunGrid(const LaunchShape& shape, const std::function<void()>& body) {
  const Index& grid = shape.grid;
  std::vector<Index> blocks;
  Index block;
  for (block.z = 0; block.z < grid.z; ++block.z) {
    for (block.y = 0; block.y < grid.y; ++block.y) {
      for (block.x = 0; block.x < grid.x; ++block.x) blocks.push_back(block);
    }
  }
  RunBlocks(blocks, shape, body);
}

void RunTogether(const LaunchShape& shape, const std::function<void()>& body) {
  CHECK(shape.grid.y == 1 && shape.grid.z == 1);
  const auto run = [&](unsigned x) {
    const Index block = {x, 0, 0};
    RunBlocks({&block, 1}, shape, body);
  };
  std::vector<std::thread> others;
  for (unsigned x = 1; x < shape.grid.x; ++x) others.emplace_back(run, x);
  run(0);
  for (auto& other : others) other.join();
}

void WaitForBlock() { TheMachine().Pause(Wait::kBlock); }
void WaitForWarp() { TheMachine().Pause(Wait::kWarp); }

float ExchangeWithLane(float value, int distance) {
  Machine& machine = TheMachine();
  const unsigned turn = machine.Exchange([&](auto& given) { given.value = value; });
  return machine.Of(machine.lane() ^ distance, turn).value;
}

void MultiplyAdd(float* sums, const uint32_t* a, uint32_t b0, uint32_t b1, Pairs pairs) {
  // Each lane makes its own numbers doubles, once.
  const auto put = [&](uint32_t pair, double* to) {
    for (int k = 0; k < 2; ++k) {
      const uint32_t bits = pair >> (16 * k) & 0xffffu;
      to[k] = pairs == Pairs::kF16 ? HalfToFloat(static_cast<uint16_t>(bits))
                                   : std::bit_cast<float>(bits << 16);
    }
  };
  Machine& machine = TheMachine();
  const unsigned turn = machine.Exchange([&](auto& given) {
    for (int i = 0; i < 4; ++i) put(a[i], given.a[i]);
    put(b0, given.b[0]);
    put(b1, given.b[1]);
  });
  const int g = machine.lane() / 4, t = machine.lane() % 4;
  double of_lane[4] = {};
  for (int second = 0; second < 2; ++second) {
    for (int of = 0; of < 4; ++of) {
      const auto& row = machine.Of(g * 4 + of, turn).a;
      for (int i = 0; i < 4; ++i) {
        const auto& column = machine.Of((2 * t + i % 2) * 4 + of, turn).b[second];
        for (int k = 0; k < 2; ++k) of_lane[i] += row[2 * second + i / 2][k] * column[k];
      }
    }
  }
  for (int i = 0; i < 4; ++i) sums[i] = static_cast<float>(sums[i] + of_lane[i]);
}

void Fail(const char* why) { CHECK_MSG(false, why); }

char* DynamicShared() { return TheMachine().shared(); }

void CheckAligned(const void* p, size_t bytes) {
  CHECK_MSG(reinterpret_cast<uintptr_t>(p) % bytes == 0, "a misaligned vector load");
}

}  // namespace echelon::emulation
