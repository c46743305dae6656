#pragma once
// EmulatedLink: what is between one rank on a device and other ranks that are not there. A message
// takes a latency and its bytes over a bandwidth, on the link's stream, and brings what the rank
// itself has sent: a copy on the device stands for the bytes that come. Between the same sums the
// answer is that of a group whose ranks all hold this rank's shard.
//
// Messages of one queue follow each other; both directions at once. One thread, the backend's,
// which outlives it; it outlives the wires.

#include <memory>
#include <vector>

#include "common/result.h"
#include "kernels/backend.h"
#include "tests/gpu/link_ops.h"
#include "worker/comm/step_comm.h"

namespace echelon::bench {

struct LinkSpeed {
  double latency_s = 0.0;
  double seconds_per_byte = 0.0;
};
struct LinkTraffic {
  double operations = 0.0, bytes = 0.0;
  double delayed_s = 0.0;  // together
};

class EmulatedLink {
 public:
  explicit EmulatedLink(Backend& backend) : backend_(backend) {}
  WireFactory factory();
  // Of all wires, for what is enqueued from now on; the traffic begins anew. Waits for the device.
  void Set(const LinkSpeed& speed);
  LinkTraffic Traffic();  // since Set; waits for the device

 private:
  class Wire;
  Backend& backend_;
  std::vector<std::unique_ptr<DeviceBuffer>> meters_;  // of each wire
};

}  // namespace echelon::bench
