#pragma once
// Line charts as SVG text: logarithmic axes, one legend below. Pure function.

#include <string>
#include <utility>
#include <vector>

namespace echelon {

struct ChartLine {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x ascending, both positive
  int colour = 0;                                 // lines that belong together have the same one
  bool dashed = false;
};
struct Chart {
  std::string title, x_label, y_label;
  bool log_y = true;
  std::vector<ChartLine> lines;
};
// Charts one beside another, on a white card, so that they can be read on any page. All have the
// lines of the first, whose names make the legend.
std::string DrawCharts(const std::vector<Chart>& charts);

}  // namespace echelon
