#pragma once
// A line chart as SVG text: logarithmic axes, a legend beside the lines. Pure function.

#include <string>
#include <utility>
#include <vector>

namespace echelon {

struct ChartLine {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x ascending, both positive
  bool dashed = false;
};
struct Chart {
  std::string title, x_label, y_label;
  bool log_y = true;
  std::vector<ChartLine> lines;
};
// Charts one beside another, white background.
std::string DrawCharts(const std::vector<Chart>& charts);

}  // namespace echelon
