#pragma once
// Trace: when every op, message and step of one rank began and ended, as events that Chrome's
// tracing page and Perfetto show. Made where worker.trace asks for it; nothing elsewhere. Keeps the
// first kTraceEventsMax events in memory and writes them once, as the rank ends. One thread: the
// one that runs the steps.
//
// Of a message one sees when it was posted, when its last part had arrived (as far as the rank has
// noticed: while it computes it looks every 50 to 200 us) and when the rank waited for it, each
// with the layer whose output it carries.
//
// A device's ops, what its links carry and where its stream stands still for them have tracks of
// their own, with the device's times (kernels/timed_backend.h). Its steps run op by op, never as
// graphs: gaps between short ops are the host's, which enqueues them.
//
// Times are those of the steady clock: one clock for all ranks of a host, another on each host.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/result.h"
#include "common/step.h"
#include "kernels/timed_backend.h"
#include "worker/comm/communicator.h"
#include "worker/weights.h"

namespace echelon {

// About 450 events a step of a 30-layer model: some 580 steps in 12 MiB.
inline constexpr size_t kTraceEventsMax = size_t{1} << 18;

enum class TraceTrack : uint8_t {
  kStep = 1,
  kCompute = 2,
  kWait = 3,
  kInFlight = 4,
  kDeviceCompute = 5,
  kDeviceWait = 6,
  kDeviceLink = 7  // of the first link, and so on: what they carry may overlap
};

struct TraceEvent {
  const char* name = "";  // of static storage
  TraceTrack track = TraceTrack::kStep;
  int32_t layer = -1;     // of the model; -1: none
  int32_t message = 0;    // of this rank, from 1: the same in flight and waited for; of a device
                          // its link
  int32_t sequences = 0;  // of a step
  int64_t amount = 0;     // rows, or bytes of a message
  int64_t begin_ns = 0, end_ns = 0;
};

class Trace : public OpObserver {
 public:
  Trace(int rank, std::string host);

  // From now on ops on these weights are called by what they are ("gate_up", layer 3).
  // `layer_begin`: the first layer of this rank.
  void NameWeights(const Weights& weights, int layer_begin);
  void OnOp(const OpTime& time) override;
  void Add(const TraceEvent& event);
  void AddStep(const StepPlan& plan, int64_t begin_ns);  // ends now
  int layer() const { return layer_; }                   // of the last op that said so
  int NewMessage() { return ++messages_; }
  // Writes `folder`/rank-N.json: an array of events, one a line.
  Status Write(const std::string& folder) const;
  const std::vector<TraceEvent>& events() const { return events_; }

  static int64_t NowNs();

 private:
  struct OpName {
    const char* name;
    int layer;
  };
  const int rank_;
  const std::string host_;
  std::map<const void*, OpName> names_;
  int layer_begin_ = 0;
  int layer_ = -1;
  int messages_ = 0;
  std::vector<TraceEvent> events_;
};

// `inner`, with every operation in flight, once it was waited for, and every wait told to `trace`;
// so are the groups split
// from it. A group of one rank has nothing to tell. `trace` outlives the communicator.
std::unique_ptr<Communicator> MakeTracedComm(std::unique_ptr<Communicator> inner, Trace& trace);

}  // namespace echelon
