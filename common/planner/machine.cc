#include "common/planner/machine.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "common/check.h"
#include "common/strings.h"
#include "common/sum_share.h"

namespace echelon {

MatMulCurve::MatMulCurve(std::vector<Point> points) : points_(std::move(points)) {
  CHECK(std::is_sorted(points_.begin(), points_.end(),
                       [](const Point& a, const Point& b) { return a.rows < b.rows; }));
}

MatMulCurve MatMulCurve::Roofline(double bytes_per_weight, double one_row_bytes_s, double bytes_s,
                                  double macs_s) {
  const double many = bytes_per_weight / bytes_s;
  const double knee = many * macs_s;  // rows whose arithmetic takes as long as the reading
  std::vector<Point> points = {{1.0, std::max(bytes_per_weight / one_row_bytes_s, 1.0 / macs_s)}};
  points.push_back({2.0, std::max(many, 2.0 / macs_s)});
  if (knee > 2.0) points.push_back({knee, many});
  return MatMulCurve(std::move(points));
}

double MatMulCurve::SecondsPerWeight(double rows) const {
  CHECK(!points_.empty());
  if (rows <= points_.front().rows) return points_.front().seconds;
  if (rows >= points_.back().rows) return points_.back().seconds * rows / points_.back().rows;
  const auto above = std::upper_bound(points_.begin(), points_.end(), rows,
                                      [](double r, const Point& p) { return r < p.rows; });
  const Point& a = *(above - 1);
  const Point& b = *above;
  return a.seconds + (b.seconds - a.seconds) * (rows - a.rows) / (b.rows - a.rows);
}

namespace {

// What `ranks` of one host make of the time of two, where they share the link.
double SharingInside(const Link& link, int ranks) { return link.shared ? ranks / 2.0 : 1.0; }
// What the ranks of one host make of the time of one, where they share the link to the others.
double SharingBetween(const Link& link, int ranks) { return link.shared ? ranks : 1.0; }

double ExchangeInside(const Link& link, int ranks, double bytes) {
  return link.latency_s + (ranks - 1) * bytes * SharingInside(link, ranks) / link.bytes_s;
}

// The sum of `bytes` shared out among `ranks` and handed on: 2 (n - 1) / n of the bytes.
double SharedOut(const Link& link, int ranks, double bytes, double sharing) {
  const double n = ranks, part_s = bytes / n * sharing / link.bytes_s;
  if (link.kind == AllReduceKind::kRing) {
    return link.latency_s + 2 * (n - 1) * (link.step_s + part_s);
  }
  return 2 * (link.latency_s + (n - 1) * part_s);
}

double AllReduceInside(const Link& link, int ranks, double bytes) {
  const bool each = ShareOf(1, ranks, static_cast<int64_t>(bytes)) == SumShare::kEach;
  if (link.kind == AllReduceKind::kExchange && each) return ExchangeInside(link, ranks, bytes);
  return SharedOut(link, ranks, bytes, SharingInside(link, ranks));
}

}  // namespace

double Cluster::AllReduceSeconds(const GroupPlaces& group, double bytes) const {
  const int ranks = std::accumulate(group.begin(), group.end(), 0);
  const int most = *std::max_element(group.begin(), group.end());
  const auto hosts = static_cast<int>(group.size());
  if (ranks == 1) return 0.0;
  if (hosts == 1) return AllReduceInside(inside, ranks, bytes);
  if (between.kind == AllReduceKind::kRing) {
    return (most > 1 ? AllReduceInside(inside, most, bytes) : 0.0) +
           SharedOut(between, hosts, bytes, 1.0);
  }
  // Hosts exchange contributions, never sums of their own: a rank gets its slice of every rank of
  // the other hosts, and with it a slice of each of its own host's, and hands on their sum.
  const SumShare share = ShareOf(hosts, most, static_cast<int64_t>(bytes));
  const double exchanges = share == SumShare::kGroup ? 2.0 : 1.0;
  double far_s = 0.0, near_s = 0.0;
  for (const int here : group) {
    const double slice = bytes / (share == SumShare::kGroup ? ranks : here);
    const double from_far = exchanges * (ranks - here) * slice;
    far_s = std::max(far_s, from_far * SharingBetween(between, here) / between.bytes_s);
    if (here == 1) continue;
    near_s = std::max(near_s, SharedOut(inside, here, slice * here, SharingInside(inside, here)));
  }
  return exchanges * between.latency_s + far_s + near_s;
}

double Cluster::AllGatherSeconds(const GroupPlaces& group, double bytes) const {
  const int ranks = std::accumulate(group.begin(), group.end(), 0);
  double most = 0.0;
  for (const int here : group) {
    double seconds = here > 1 ? ExchangeInside(inside, here, bytes) : 0.0;
    if (here < ranks) {
      const double from_far = (ranks - here) * bytes * SharingBetween(between, here);
      seconds += between.latency_s + from_far / between.bytes_s;
    }
    most = std::max(most, seconds);
  }
  return most;
}

double HostSpec::CoresOfRank(int ranks) const {
  const int share = std::max(1, cores / std::max(1, ranks));
  return cores_per_rank_max > 0 ? std::min(share, cores_per_rank_max) : share;
}

int Cluster::slots() const {
  int sum = 0;
  for (const HostSpec& host : hosts) sum += host.slots;
  return sum;
}

std::vector<int> Cluster::HostsOfRanks(int ranks) const {
  std::vector<int> out;
  out.reserve(ranks);
  for (size_t h = 0; h < hosts.size() && std::ssize(out) < ranks; ++h) {
    out.insert(out.end(), std::min<int64_t>(hosts[h].slots, ranks - std::ssize(out)),
               static_cast<int>(h));
  }
  CHECK_MSG(std::ssize(out) == ranks, "more ranks than slots");
  return out;
}

Cluster UniformCluster(const HostSpec& host, int hosts, const Link& inside, const Link& between) {
  Cluster cluster{{}, inside, between};
  for (int h = 0; h < hosts; ++h) {
    cluster.hosts.push_back(host);
    if (hosts > 1) cluster.hosts.back().name = StrCat(host.name, h);
  }
  return cluster;
}

}  // namespace echelon
