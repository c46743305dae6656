#include "client/cli/svg_chart.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <set>

#include "common/strings.h"

namespace echelon {

namespace {

// Pixels. A chart's plot area stands left of its legend.
constexpr double kWidth = 620, kHeight = 380, kLeft = 70, kTop = 40, kPlotWidth = 340,
                 kPlotHeight = 270;
constexpr std::array kColours = {"#1f77b4", "#d62728", "#2ca02c", "#9467bd",
                                 "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f"};

std::string Number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

// A figure's place on an axis of `length` pixels.
struct Axis {
  double least, most;
  bool logarithmic;
  double At(double value, double length) const {
    const auto place = [&](double v) { return logarithmic ? std::log(v) : v; };
    return length * (place(value) - place(least)) / (place(most) - place(least));
  }
  std::vector<double> Ticks() const {
    std::vector<double> ticks;
    if (!logarithmic) {
      for (int i = 0; i <= 5; ++i) ticks.push_back(least + (most - least) * i / 5);
      return ticks;
    }
    const bool wide = most / least > 300;
    for (double decade = 1e-12; decade < 1e15; decade *= 10) {
      for (const double step : {1.0, 2.0, 5.0}) {
        const double tick = decade * step;
        if (tick < least * 0.999 || tick > most * 1.001) continue;
        if (!wide || step == 1.0) ticks.push_back(tick);
      }
    }
    return ticks;
  }
};

Axis AxisOf(const Chart& chart, bool x) {
  double least = std::numeric_limits<double>::max(), most = 0.0;
  for (const ChartLine& line : chart.lines) {
    for (const auto& point : line.points) {
      least = std::min(least, x ? point.first : point.second);
      most = std::max(most, x ? point.first : point.second);
    }
  }
  const bool logarithmic = x || chart.log_y;
  if (!logarithmic) return {0.0, std::ceil(most * 5 - 1e-9) / 5, false};  // ticks of a fifth
  if (!x) return {least / 1.2, most * 1.2, true};
  return {least, most > least ? most : 2 * least, true};
}

std::string Text(double x, double y, const char* anchor, const std::string& text,
                 const std::string& more = "") {
  return StrCat("<text x=\"", Number(x), "\" y=\"", Number(y), "\" text-anchor=\"", anchor, "\" ",
                more, ">", text, "</text>\n");
}

std::string Frame(const Chart& chart, const Axis& x, const Axis& y) {
  std::string out = Text(kLeft + kPlotWidth / 2, 22, "middle", chart.title, "font-weight=\"bold\"");
  const double bottom = kTop + kPlotHeight;
  for (const double tick : y.Ticks()) {
    const double at = bottom - y.At(tick, kPlotHeight);
    out += StrCat("<line x1=\"", kLeft, "\" x2=\"", kLeft + kPlotWidth, "\" y1=\"", Number(at),
                  "\" y2=\"", Number(at), "\" stroke=\"#ddd\"/>\n");
    out += Text(kLeft - 6, at + 4, "end", Number(tick));
  }
  double last = -100;
  std::set<double> values;  // the x values themselves are the ticks
  for (const ChartLine& line : chart.lines) {
    for (const auto& point : line.points) values.insert(point.first);
  }
  for (const double tick : values) {
    const double at = kLeft + x.At(tick, kPlotWidth);
    if (at - last < 30) continue;
    last = at;
    out += Text(at, bottom + 18, "middle", Number(tick));
  }
  out += StrCat("<rect x=\"", kLeft, "\" y=\"", kTop, "\" width=\"", kPlotWidth, "\" height=\"",
                kPlotHeight, "\" fill=\"none\" stroke=\"#444\"/>\n");
  out += Text(kLeft + kPlotWidth / 2, bottom + 42, "middle", chart.x_label);
  out += Text(0, 0, "middle", chart.y_label,
              StrCat("transform=\"translate(16 ", kTop + kPlotHeight / 2, ") rotate(-90)\""));
  return out;
}

std::string Draw(const Chart& chart) {
  const Axis x = AxisOf(chart, true), y = AxisOf(chart, false);
  std::string out = Frame(chart, x, y);
  for (size_t i = 0; i < chart.lines.size(); ++i) {
    const ChartLine& line = chart.lines[i];
    const std::string style =
        StrCat("fill=\"none\" stroke-width=\"2\" stroke=\"", kColours[i % kColours.size()], "\"",
               line.dashed ? " stroke-dasharray=\"6 4\"" : "");
    std::string points;
    for (const auto& [px, py] : line.points) {
      points += StrCat(Number(kLeft + x.At(px, kPlotWidth)), ",",
                       Number(kTop + kPlotHeight - y.At(py, kPlotHeight)), " ");
    }
    out += StrCat("<polyline points=\"", points, "\" ", style, "/>\n");
    const double at = kTop + 12 + 18.0 * static_cast<double>(i);
    out += StrCat("<polyline points=\"", kLeft + kPlotWidth + 12, ",", at, " ",
                  kLeft + kPlotWidth + 36, ",", at, "\" ", style, "/>\n");
    out += Text(kLeft + kPlotWidth + 42, at + 4, "start", line.name);
  }
  return out;
}

}  // namespace

std::string DrawCharts(const std::vector<Chart>& charts) {
  std::string out = StrCat("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"",
                           kWidth * static_cast<double>(charts.size()), "\" height=\"", kHeight,
                           "\" font-family=\"sans-serif\" font-size=\"12\">\n"
                           "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n");
  for (size_t i = 0; i < charts.size(); ++i) {
    out += StrCat("<g transform=\"translate(", kWidth * static_cast<double>(i), " 0)\">\n",
                  Draw(charts[i]), "</g>\n");
  }
  return out + "</svg>\n";
}

}  // namespace echelon
