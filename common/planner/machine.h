#pragma once
// What the planner knows of machines: how fast a rank's processor is, what a host holds, what its
// links carry. Values measured by `echelon-worker --calibrate`, given in a hosts file
// (hosts_file.h) or fitted to published figures (presets.h). Plain values; seconds, bytes, and
// multiply-adds.

#include <cstdint>
#include <string>
#include <vector>

namespace echelon {

// Time of a matrix product per weight, as a function of the rows that share the weight: straight
// lines between measured points, proportional to the rows beyond the last one.
class MatMulCurve {
 public:
  struct Point {
    double rows = 1.0;
    double seconds = 0.0;  // per weight, all rows together
    bool operator==(const Point&) const = default;
  };

  MatMulCurve() = default;
  explicit MatMulCurve(std::vector<Point> points);  // ascending rows
  // What memory and arithmetic allow: weights read at `one_row_bytes_s` for a single row and at
  // `bytes_s` for several, until rows / macs_s takes longer.
  static MatMulCurve Roofline(double bytes_per_weight, double one_row_bytes_s, double bytes_s,
                              double macs_s);

  bool empty() const { return points_.empty(); }
  const std::vector<Point>& points() const { return points_; }
  double SecondsPerWeight(double rows) const;
  bool operator==(const MatMulCurve&) const = default;

 private:
  std::vector<Point> points_;
};

// One core, or one GPU. Rates of memory hold for what the processor computes on, not for a copy.
struct ProcessorRates {
  MatMulCurve layers, head;        // measured; empty: the roofline of the three figures below
  double one_row_bytes_s = 8e9;    // weights read per second by one row ...
  double bytes_s = 8e9;            // ... and by several
  double macs_s = 50e9;            // of large matrix products
  double kv_bytes_s = 4e9;         // attention of one row: keys and values read per second
  double attention_macs_s = 10e9;  // attention of many rows
  double block_s = 10e-6;          // of every sub-block, whatever its size: launches, barriers
  double parallel_saves = 0.1;     // share of block_s that attention and MLP on one norm save
  double row_element_s = 1e-9;  // of a sub-block, per row and d_model: norms, activations, rotation
  double step_s = 50e-6;        // of every step: plan, embedding, sampling
  bool operator==(const ProcessorRates&) const = default;
};

struct HostSpec {
  std::string name;
  int slots = 1;                       // ranks it takes
  int cores = 1;                       // shared out among its ranks; or GPUs
  int cores_per_rank_max = 0;          // 1 where a rank drives one GPU; 0 = no limit
  uint64_t memory_bytes = 8ull << 30;  // of all its ranks together
  ProcessorRates one;                  // of a core, for a rank of one thread among others
  ProcessorRates all;                  // of a core, for a rank of many threads

  // Threads (or GPUs) of each rank when `ranks` of them share the host; at least one.
  double CoresOfRank(int ranks) const;
  const ProcessorRates& RatesOf(double threads) const { return threads > 1 ? all : one; }
};

// How all-reduces go over a link. kExchange: as this engine does it (common/sum_share.h). kRing:
// ranks of one host add first, then the hosts; each time 2 (n - 1) steps of an n-th of the message.
enum class AllReduceKind : uint8_t { kExchange, kRing };

struct Link {
  AllReduceKind kind = AllReduceKind::kExchange;
  double latency_s = 20e-6;  // of an exchange, or of a whole all-reduce over a ring
  double step_s = 0.0;       // kRing: of each step
  double bytes_s = 1e9;      // of one rank, one way
  // All ranks of a host share bytes_s: host memory, a bus (bytes_s is that of a pair); a network
  // port (bytes_s is that of the host).
  bool shared = false;
  double hidden = 0.0;  // share of min(compute, communication) that overlaps where it may

  double SendSeconds(double bytes) const { return latency_s + bytes / bytes_s; }
};

// Ranks of a group on each of its hosts, at least one on each.
using GroupPlaces = std::vector<int>;

struct Cluster {
  std::vector<HostSpec> hosts;  // ranks fill them in this order, slot by slot
  Link inside, between;         // of two ranks on one host, on two hosts

  int slots() const;
  std::vector<int> HostsOfRanks(int ranks) const;  // by rank, indices into hosts; ranks <= slots()

  // Every rank's sum of `bytes` of all of the group's ranks.
  double AllReduceSeconds(const GroupPlaces& group, double bytes) const;
  // Every rank's `bytes`, handed to all of the group's others in one exchange.
  double AllGatherSeconds(const GroupPlaces& group, double bytes) const;
};

// A cluster of `hosts` equal hosts.
Cluster UniformCluster(const HostSpec& host, int hosts, const Link& inside, const Link& between);

}  // namespace echelon
