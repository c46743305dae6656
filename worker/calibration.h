#pragma once
// Calibrator: the rates of this machine for one checkpoint, measured in some seconds, for the
// planner (common/planner/machine.h). It runs the executor itself, alone: as a whole rank, and as
// one rank of several whose peers are not there, so that what shrinks with the shard tells itself
// apart from what does not. All cores must be free. One thread drives it.

#include <map>
#include <string>

#include "common/model/checkpoint.h"
#include "common/planner/machine.h"
#include "common/result.h"
#include "kernels/backend.h"

namespace echelon {

struct Calibration {
  std::string backend;  // Backend::Describe of the rank of all cores
  HostSpec host;        // slots: 1
  Link inside;          // between threads of this process
};

class Calibrator {
 public:
  // `backend.threads` is ignored: ranks of one thread (two at once, where there are two cores) and
  // a rank of all cores are measured. "auto" is the first of cpu and reference that works here. The
  // checkpoint outlives the calibrator.
  Calibrator(const Checkpoint& checkpoint, const BackendOptions& backend);

  // One round; of several, the least time of each step counts: what disturbs a machine only adds.
  // kInvalidArgument for a model with too short a context, or with a single attention head;
  // kUnsupported for a device: its rates are no core's, and its messages do not go through the
  // host's memory.
  Status Measure();
  // At least one round was measured.
  Calibration Rates() const;

 private:
  // Seconds of steps of one kind of rank.
  struct Times {
    std::map<int, double> whole, part;              // by rows: of a rank alone, of one of several
    double sampled_one = 0.0, sampled_batch = 0.0;  // with one token each
    double late_decode = 0.0, late_chunk = 0.0;     // with kContext positions before

    void KeepLeast(const Times& other);
  };
  struct LinkTimes {
    double small = 0.0, large = 0.0, overlapped = 0.0;
    void KeepLeast(const LinkTimes& other);
  };
  Result<Times> MeasureRank(int threads) const;
  ProcessorRates RatesFrom(const Times& times, int threads) const;
  LinkTimes MeasureLink() const;

  const Checkpoint& checkpoint_;
  BackendOptions backend_;
  std::string described_;
  Times one_, all_;
  LinkTimes link_;
  uint64_t free_bytes_ = 0;
};

}  // namespace echelon
