#include "worker/comm/first_problem.h"

#include <vector>

#include "common/strings.h"
#include "worker/comm/packed_text.h"

namespace echelon {

Status FirstProblem(Communicator& group, const std::string& host, const Status& mine) {
  struct Packed {
    char host[64] = {};
    char problem[384] = {};
  };
  Packed packed;
  PutText(packed.host, host);
  if (!mine.ok()) PutText(packed.problem, mine.error().message);
  std::vector<Packed> ranks(static_cast<size_t>(group.size()));
  group.Wait(group.AllGather(&packed, ranks.data(), sizeof(packed)));
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    if (ranks[rank].problem[0] == '\0') continue;
    return Unsupported(StrCat("rank ", rank, " of the group on host ", ranks[rank].host, ": ",
                              ranks[rank].problem));
  }
  return {};
}

}  // namespace echelon
