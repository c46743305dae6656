#include "tests/support/cuda_emulation/symbols.h"

#include <cxxabi.h>
#include <elf.h>
#include <link.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string_view>

#include "common/check.h"

namespace echelon::emulation {

namespace {

// A variable of a function is _ZZ, the function's name without its _Z, E and its own.
constexpr std::string_view kOfFunction = "_ZZN7echelon4cuda";

// The program itself comes first.
dl_phdr_info Program() {
  dl_phdr_info program = {};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* to) {
        *static_cast<dl_phdr_info*>(to) = *info;
        return 1;
      },
      &program);
  return program;
}

template <typename T>
T At(const std::string& file, size_t offset) {
  CHECK(offset + sizeof(T) <= file.size());
  T value;
  std::memcpy(&value, file.data() + offset, sizeof(value));
  return value;
}

}  // namespace

Symbols::Symbols() : loaded_at_(Program().dlpi_addr) {
  std::ifstream in("/proc/self/exe", std::ios::binary);
  const std::string file((std::istreambuf_iterator<char>(in)), {});
  const auto header = At<ElfW(Ehdr)>(file, 0);
  const auto section = [&](size_t i) {
    return At<ElfW(Shdr)>(file, header.e_shoff + i * header.e_shentsize);
  };
  for (size_t i = 0; i < header.e_shnum; ++i) {
    const auto table = section(i);
    if (table.sh_type != SHT_SYMTAB) continue;
    const auto names = section(table.sh_link);
    for (size_t at = 0; at < table.sh_size; at += sizeof(ElfW(Sym))) {
      const auto symbol = At<ElfW(Sym)>(file, table.sh_offset + at);
      const char* const name = file.data() + names.sh_offset + symbol.st_name;
      const auto type = ELF64_ST_TYPE(symbol.st_info);
      if (type == STT_FUNC) functions_.emplace(symbol.st_value, name);
      const std::string_view whole = name;
      if (type != STT_TLS || !whole.starts_with(kOfFunction)) continue;
      const std::string_view function = whole.substr(3, whole.rfind('E') - 3);
      shared_variables_.push_back({"_Z" + std::string(function), symbol.st_value, symbol.st_size});
    }
  }
}

const std::string& Symbols::NameOf(const void* function) const {
  const auto found = functions_.find(reinterpret_cast<uintptr_t>(function) - loaded_at_);
  CHECK_MSG(found != functions_.end(), "a kernel that the program's symbol table does not know");
  return found->second;
}

std::string Symbols::ForReaders(const std::string& name) {
  int status = 0;
  char* const text = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
  const std::string readable = status == 0 ? text : name;
  std::free(text);
  return readable;
}

char* Symbols::ThreadMemory() { return static_cast<char*>(Program().dlpi_tls_data); }

const Symbols& TheSymbols() {
  static const Symbols symbols;
  return symbols;
}

}  // namespace echelon::emulation
