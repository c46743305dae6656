#pragma once
// TokenRing: the tokens of the latest steps on the stages that need them. The last stage draws
// them; the first stage embeds them in the next step (kTokenFromLastStep). Between the two stages a
// token travels rank to rank with the same tp index; a plan waits only for the tokens it names, so
// that several plans can be in flight. One thread.

#include <cstdint>
#include <deque>
#include <optional>
#include <unordered_map>
#include <vector>

#include "common/step.h"
#include "worker/comm/communicator.h"

namespace echelon {

class TokenRing {
 public:
  // `stages`: the pipeline's ranks with this tp index, in order; outlives the ring.
  explicit TokenRing(Communicator& stages) : stages_(stages) {}

  // Every step, on the first stage: forgets what the plan releases, and remembers that its sampled
  // tokens will come. With one stage there is nothing to await.
  void Expect(const StepPlan& plan);
  // The plan's releases, on the last stage of several.
  void Forget(const std::vector<SequenceId>& released);
  // Last stage: the drawn tokens of the plan's sampling sequences, in the plan's order.
  void Deliver(const StepPlan& plan, const std::vector<int32_t>& tokens);
  // The token last drawn for the sequence; the first stage waits for it where it is still to come.
  int32_t TokenOf(SequenceId id);

 private:
  void ReceiveOldest();

  Communicator& stages_;
  std::unordered_map<SequenceId, int32_t> tokens_;
  // Messages to come, oldest first: whose tokens they carry; none where it was released since.
  std::deque<std::vector<std::optional<SequenceId>>> awaited_;
  std::vector<int32_t> outgoing_;  // until it is sent
  std::optional<CommHandle> sent_;
};

}  // namespace echelon
