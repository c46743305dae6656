#pragma once
// PlanChannel: how the lead hands every plan to the other ranks: flat and eager, one message in the
// usual case. A tree through busy ranks would wait for them; here a plan lies ready at each rank
// whenever it comes back for one. Each rank owns one, all on a communicator of their own; one
// thread.

#include <array>
#include <memory>
#include <optional>
#include <string>

#include "worker/comm/communicator.h"

namespace echelon {

class PlanChannel {
 public:
  // Collective over `world`.
  explicit PlanChannel(Communicator& world);

  // Lead (rank 0): sends `plan` (EncodePlan bytes, not empty) to every rank, or the end.
  void Publish(const std::string& plan);
  void PublishEnd() { Publish(""); }
  // Other ranks: waits, sleeping, for the next plan; nothing at the end.
  std::optional<std::string> Next();
  // Whether Next would not wait for it to begin coming.
  bool Ready();

 private:
  // A decode step of 16 sequences takes about 16 * 30 bytes; what does not fit here follows as a
  // second message, whose size the first one tells.
  static constexpr size_t kFirstBytes = 2048;
  static constexpr size_t kInlineBytes = kFirstBytes - sizeof(uint64_t);

  void Expect();

  std::unique_ptr<Communicator> comm_;
  std::array<char, kFirstBytes> first_{};
  std::string rest_;
  CommHandle sent_;
  CommHandle coming_;  // the next plan; 0: it is not expected yet
  bool has_come_ = false;
};

}  // namespace echelon
