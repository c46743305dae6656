#pragma once
// A kernel's copies into shared memory that go on beside it (kernels/cuda/device.cuh): they happen
// when the thread that began them awaits them, no sooner, so that whoever reads before finds what
// was there. Inside a kernel.

#include <cstddef>

namespace echelon::emulation {

void BeginCopy(char* to_shared, const char* from, size_t bytes);
void EndCopies();
void AwaitCopies(int left);

}  // namespace echelon::emulation
