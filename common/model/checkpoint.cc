#include "common/model/checkpoint.h"

#include "common/model/open_checkpoint.h"
#include "common/strings.h"

namespace echelon {

Result<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& path,
                                                   const CheckpointOptions&) {
  return OpenGgufCheckpoint(path);
}

}  // namespace echelon
