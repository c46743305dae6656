#pragma once
// What every refusal of a hostile file must be: an error of one line that names file and field.

#include <gtest/gtest.h>
#include <malloc.h>

#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>

#include "common/result.h"

namespace echelon {

template <typename T>
void ExpectCleanError(const Result<T>& result, const std::string& file, const std::string& field) {
  ASSERT_FALSE(result.ok()) << "was accepted";
  const Error& error = result.error();
  EXPECT_TRUE(error.code == ErrorCode::kCorrupt || error.code == ErrorCode::kUnsupported ||
              error.code == ErrorCode::kNotFound)
      << ErrorCodeName(error.code);
  EXPECT_NE(error.message.find(file), std::string::npos) << error.message;
  EXPECT_NE((error.message + " " + error.field).find(field), std::string::npos)
      << "'" << field << "' is not named in: " << error.message;
  EXPECT_LT(error.message.size(), 1000u) << error.message;
  for (const char c : error.message) EXPECT_FALSE(c >= 0 && c < ' ') << error.message;
}

// Bytes from a line of /proc/self/status; 0 where there is none.
inline uint64_t ProcessBytes(std::string_view key) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(key)) return std::stoull(line.substr(key.size() + 1)) * 1024;
  }
  return 0;
}

// Sanitizers keep freed memory back, so that their processes say nothing about ours.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kMemoryIsOurs = false;
#else
inline constexpr bool kMemoryIsOurs = true;
#endif

// How far the process' memory rose above what it was while `work` ran.
template <typename Work>
uint64_t PeakGrowth(Work work) {
  ::malloc_trim(0);  // what the allocator kept of earlier tests would hide growth
  const uint64_t before = ProcessBytes("VmRSS:");
  std::ofstream("/proc/self/clear_refs") << 5;  // restarts VmHWM
  work();
  const uint64_t peak = ProcessBytes("VmHWM:");
  return peak > before ? peak - before : 0;
}

}  // namespace echelon
