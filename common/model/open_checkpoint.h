#pragma once
// The sources behind OpenCheckpoint: one function each.

#include <memory>
#include <string>

#include "common/model/checkpoint.h"

namespace echelon {

Result<std::unique_ptr<Checkpoint>> OpenGgufCheckpoint(const std::string& path);

}  // namespace echelon
