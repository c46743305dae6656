#pragma once
// The running program's symbol table: what a kernel is called, and where the variables lie that
// kernels declare __shared__, which are the host's thread-local ones inside functions of
// kernels/cuda.

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace echelon::emulation {

struct SharedVariable {
  std::string function;  // in which it stands, as Symbols::NameOf has it
  size_t offset = 0;     // in each thread's memory
  size_t bytes = 0;
};

class Symbols {
 public:
  Symbols();

  // As the linker knows the function; ends the program where it does not.
  const std::string& NameOf(const void* function) const;
  const std::vector<SharedVariable>& shared_variables() const { return shared_variables_; }

  static std::string ForReaders(const std::string& name);
  // Of this thread: what the offsets of variables count from.
  static char* ThreadMemory();

 private:
  uintptr_t loaded_at_ = 0;
  std::map<uintptr_t, std::string> functions_;  // by address in the file
  std::vector<SharedVariable> shared_variables_;
};
const Symbols& TheSymbols();

}  // namespace echelon::emulation
