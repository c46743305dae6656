#include "client/cli/progress.h"

#include <algorithm>
#include <cstddef>
#include <cstdio>

#include "common/strings.h"

namespace echelon {

namespace {

constexpr int64_t kPlainIntervalUs = 2'000'000;
constexpr int64_t kRedrawIntervalUs = 100'000;  // 10 a second look smooth
constexpr int kBarCells = 24;
constexpr size_t kColumnsMax = 79;     // a wrapped line would be two, and the redrawing miscount
constexpr size_t kRanksShownMax = 16;  // more bars than this would scroll

std::string RankText(const RankProgress& rank) {
  if (!rank.joined) return "has not joined";
  const std::string host = rank.host.empty() ? "" : StrCat("(", rank.host, ") ");
  if (rank.ready) return StrCat(host, "ready, ", HumanBytes(static_cast<double>(rank.bytes_total)));
  if (rank.bytes_total == 0) return StrCat(host, "joined");
  return StrCat(host, HumanBytes(static_cast<double>(rank.bytes_done)), " of ",
                HumanBytes(static_cast<double>(rank.bytes_total)));
}

std::string Bar(const RankProgress& rank) {
  double part = rank.ready ? 1.0 : 0.0;
  if (!rank.ready && rank.bytes_total > 0) {
    part = static_cast<double>(rank.bytes_done) / static_cast<double>(rank.bytes_total);
  }
  const int full = static_cast<int>(std::clamp(part, 0.0, 1.0) * kBarCells);
  return std::string(full, '#') + std::string(kBarCells - full, '.');
}

std::string Clipped(const std::string& line) { return line.substr(0, kColumnsMax) + "\n"; }

}  // namespace

std::string DescribeProgress(const ServiceStatus& status) {
  std::vector<std::string> parts;
  for (const RankProgress& rank : status.ranks) {
    if (parts.size() == kRanksShownMax) {
      parts.push_back(StrCat(status.ranks.size() - kRanksShownMax, " more ranks"));
      break;
    }
    parts.push_back(StrCat("rank ", rank.rank, " ", RankText(rank)));
  }
  std::string line = status.state;
  if (!parts.empty()) line += ": " + Join(parts, ", ");
  if (!status.message.empty()) line += StrCat(" (", status.message, ")");
  return line;
}

std::string ProgressView::Update(const ServiceStatus& status) {
  const int64_t now_us = clock_.NowUs();
  if (started_us_ < 0) started_us_ = now_us;
  const bool changed = status.state != last_state_;
  const int64_t interval_us = is_terminal_ ? kRedrawIntervalUs : kPlainIntervalUs;
  if (!changed && now_us - last_print_us_ < interval_us) return "";
  last_state_ = status.state;
  last_print_us_ = now_us;
  return is_terminal_ ? Bars(status) : DescribeProgress(status) + "\n";
}

std::string ProgressView::Bars(const ServiceStatus& status) {
  // Up over what was drawn last, then clear to the end of the screen.
  std::string out = lines_drawn_ > 0 ? StrCat("\033[", lines_drawn_, "A\r\033[J") : "";
  const size_t shown = std::min(status.ranks.size(), kRanksShownMax);
  for (size_t i = 0; i < shown; ++i) {
    const RankProgress& rank = status.ranks[i];
    out += Clipped(StrCat("  rank ", rank.rank, " [", Bar(rank), "] ", RankText(rank)));
  }
  out += Clipped(StrCat("  ", status.state, status.message.empty() ? "" : ": ", status.message));
  lines_drawn_ = static_cast<int>(shown) + 1;
  return out;
}

std::string ProgressView::Finish(const ServiceStatus& status) {
  const double seconds =
      started_us_ < 0 ? 0.0 : static_cast<double>(clock_.NowUs() - started_us_) / 1e6;
  char tail[64];
  std::snprintf(tail, sizeof tail, " after %.1f s\n", seconds);
  const std::string body = is_terminal_ ? Bars(status) : DescribeProgress(status) + "\n";
  return StrCat(body, "ready", tail);
}

}  // namespace echelon
