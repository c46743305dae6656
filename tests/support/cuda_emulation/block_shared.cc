#include "tests/support/cuda_emulation/block_shared.h"

#include <sys/mman.h>

#include "common/check.h"
#include "common/strings.h"
#include "tests/support/cuda_emulation/unwritten.h"

namespace echelon::emulation {

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kBytesMax = (kSharedBytesAtMost + kPage - 1) / kPage * kPage;
constexpr size_t kAlignment = 16;

char* NewMemory() {
  void* const memory =
      mmap(nullptr, kBytesMax + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  auto* const begin = static_cast<char*>(memory);
  CHECK(mprotect(begin + kBytesMax, kPage, PROT_NONE) == 0);
  return begin;
}

}  // namespace

BlockShared::BlockShared() : memory_(NewMemory()) {}
BlockShared::~BlockShared() { munmap(memory_, kBytesMax + kPage); }

const std::vector<SharedVariable>& BlockShared::VariablesOf(const void* kernel) {
  const auto known = of_kernels_.find(kernel);
  if (known != of_kernels_.end()) return known->second;
  auto& of_kernel = of_kernels_[kernel];
  for (const SharedVariable& variable : TheSymbols().shared_variables()) {
    const bool of_another = variable.function.find("Kernel") != std::string::npos &&
                            variable.function != TheSymbols().NameOf(kernel);
    if (!of_another) of_kernel.push_back(variable);
  }
  return of_kernel;
}

void BlockShared::Begin(const void* kernel, size_t bytes) {
  CHECK_MSG(bytes <= kSharedBytesAtMost, "more shared memory than a block may have");
  kernel_ = &TheSymbols().NameOf(kernel);
  variables_ = &VariablesOf(kernel);
  bytes_ = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  launched_ = memory_ + kBytesMax - bytes_;
  FillUnwritten(launched_, bytes_);
  thread_ = Symbols::ThreadMemory();
  for (const auto& variable : *variables_) FillUnwritten(thread_ + variable.offset, variable.bytes);
}

void BlockShared::End() {
  size_t declared = 0;
  for (const SharedVariable& variable : *variables_) {
    const bool used =
        variable.function == *kernel_ || !IsUnwritten(thread_ + variable.offset, variable.bytes);
    if (used) declared += variable.bytes;
  }
  const bool asks = bytes_ > kSharedBytesUnasked - kSharedBytesDeclared;
  const size_t given = asks ? kSharedBytesAtMost : kSharedBytesUnasked;
  CHECK_MSG(bytes_ + declared <= given,
            StrCat(Symbols::ForReaders(*kernel_), " declares ", declared,
                   " bytes of shared memory, its launch asks for ", bytes_, ": a device gives ",
                   given, " together"));
}

}  // namespace echelon::emulation
