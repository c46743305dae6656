#include "common/planner/machine.h"

#include <algorithm>

#include "common/check.h"
#include "common/strings.h"

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

double Link::AllReduceSeconds(int ranks, double bytes) const {
  if (ranks <= 1) return 0.0;
  const double n = ranks;
  if (kind == AllReduceKind::kExchange) {
    return latency_s + (n - 1) * bytes * (shared ? n / 2 : 1.0) / bytes_s;
  }
  return latency_s + 2 * (n - 1) * (step_s + bytes / n * (shared ? n / 2 : 1.0) / bytes_s);
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

int Cluster::HostOf(int rank) const {
  CHECK(rank >= 0);
  for (size_t h = 0; h < hosts.size(); ++h) {
    if (rank < hosts[h].slots) return static_cast<int>(h);
    rank -= hosts[h].slots;
  }
  CHECK_MSG(false, "more ranks than slots");
  return 0;
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
