#pragma once
// ProgressView: what a starting service is doing, on stderr. On a terminal a bar per rank, redrawn
// in place; elsewhere a plain line every few seconds and whenever the state changes.

#include <cstdint>
#include <string>

#include "client/cpp/events.h"
#include "common/clock.h"

namespace echelon {

class ProgressView {
 public:
  // `is_terminal`: redraw with control sequences.
  ProgressView(const Clock& clock, bool is_terminal) : clock_(clock), is_terminal_(is_terminal) {}
  // What to print for this status; empty when nothing is due.
  std::string Update(const ServiceStatus& status);
  // What to print when the service is ready: closes the bars.
  std::string Finish(const ServiceStatus& status);

 private:
  std::string Bars(const ServiceStatus& status);
  const Clock& clock_;
  bool is_terminal_;
  int lines_drawn_ = 0;
  std::string last_state_;
  int64_t started_us_ = -1;
  int64_t last_print_us_ = 0;
};

// "loading: rank 0 (n1) 40.0 of 96.4 MB, rank 1 has not joined"
std::string DescribeProgress(const ServiceStatus& status);

}  // namespace echelon
