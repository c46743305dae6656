#pragma once
// The real checkpoints of the tests: a folder named by ECHELON_TEST_MODELS, else
// ~/.cache/echelon/models. Where one is missing the test skips and says so.

#include <cstdlib>
#include <filesystem>
#include <string>

namespace echelon {

inline constexpr const char* kSmolModel = "SmolLM2-135M-Instruct.Q4_1.gguf";
inline constexpr const char* kGemmaModel = "gemma-3-270m-q4_k_m.gguf";

// The file's path, or "" where it is missing.
inline std::string TestModelPath(const std::string& name) {
  const char* folder = std::getenv("ECHELON_TEST_MODELS");
  const char* home = std::getenv("HOME");
  const std::filesystem::path base =
      folder != nullptr
          ? std::filesystem::path(folder)
          : std::filesystem::path(home != nullptr ? home : "/") / ".cache/echelon/models";
  std::error_code error;
  const std::filesystem::path path = base / name;
  return std::filesystem::exists(path, error) ? path.string() : "";
}

}  // namespace echelon
