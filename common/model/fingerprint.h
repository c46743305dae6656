#pragma once
// Fingerprint: FNV-1a over 64 bits (Fowler, Noll, Vo), to notice that two hosts hold different
// files. It guards against mistakes, not against someone who forges a file. Plain value type.

#include <cstdint>
#include <string>
#include <string_view>

namespace echelon {

class Fingerprint {
 public:
  void Add(std::string_view bytes) {
    for (const char c : bytes) {
      hash_ = (hash_ ^ static_cast<unsigned char>(c)) * 0x100000001b3u;  // the published prime
    }
  }
  void Add(uint64_t number) {
    for (int i = 0; i < 8; ++i) {
      const char byte = static_cast<char>(number >> (8 * i));
      Add(std::string_view(&byte, 1));
    }
  }
  std::string Hex() const {  // 16 digits
    std::string out;
    for (int shift = 60; shift >= 0; shift -= 4) out += "0123456789abcdef"[hash_ >> shift & 15];
    return out;
  }

 private:
  uint64_t hash_ = 0xcbf29ce484222325u;  // the published offset basis
};

}  // namespace echelon
