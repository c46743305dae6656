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

// Pixels. Two charts side by side are as wide as a page of text, so that nothing is scaled down.
constexpr double kWidth = 440, kHeight = 400, kLeft = 72, kTop = 46, kPlotWidth = 350,
                 kPlotHeight = 250;
constexpr double kLegendAt = kHeight - 22, kLegendItem = 205;
constexpr std::array kColours = {"#2f6fb3", "#e0653a", "#5b9f8f", "#7d5fb2"};

std::string Number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

// "50k" for people, where Number would say 5e+04.
std::string Short(double value) {
  if (value >= 999e3) return Number(value / 1e6) + "M";
  return value >= 9999 ? Number(value / 1e3) + "k" : Number(value);
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
                  "\" y2=\"", Number(at), "\" stroke=\"#dfe4e8\"/>\n");
    out += Text(kLeft - 7, at + 4, "end", Short(tick));
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
              StrCat("transform=\"translate(14 ", kTop + kPlotHeight / 2, ") rotate(-90)\""));
  return out;
}

std::string StyleOf(const ChartLine& line) {
  return StrCat("fill=\"none\" stroke-width=\"2.2\" stroke-linejoin=\"round\" stroke=\"",
                kColours[static_cast<size_t>(line.colour) % kColours.size()], "\"",
                line.dashed ? " stroke-dasharray=\"7 4\"" : "");
}

std::string Legend(const std::vector<ChartLine>& lines) {
  std::string out;
  double x = kLeft;
  for (const ChartLine& line : lines) {
    out += StrCat("<polyline points=\"", x, ",", kLegendAt - 4, " ", x + 30, ",", kLegendAt - 4,
                  "\" ", StyleOf(line), "/>\n");
    out += Text(x + 37, kLegendAt, "start", line.name);
    x += kLegendItem;
  }
  return out;
}

std::string Draw(const Chart& chart) {
  const Axis x = AxisOf(chart, true), y = AxisOf(chart, false);
  std::string out = Frame(chart, x, y);
  for (const ChartLine& line : chart.lines) {
    std::string points;
    for (const auto& [px, py] : line.points) {
      points += StrCat(Number(kLeft + x.At(px, kPlotWidth)), ",",
                       Number(kTop + kPlotHeight - y.At(py, kPlotHeight)), " ");
    }
    out += StrCat("<polyline points=\"", points, "\" ", StyleOf(line), "/>\n");
  }
  return out;
}

}  // namespace

std::string DrawCharts(const std::vector<Chart>& charts) {
  std::string out = StrCat("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"",
                           kWidth * static_cast<double>(charts.size()), "\" height=\"", kHeight,
                           "\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#1f2933\">\n"
                           "<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"white\"/>\n");
  for (size_t i = 0; i < charts.size(); ++i) {
    out += StrCat("<g transform=\"translate(", kWidth * static_cast<double>(i), " 0)\">\n",
                  Draw(charts[i]), "</g>\n");
  }
  if (!charts.empty()) out += Legend(charts.front().lines);
  return out + "</svg>\n";
}

}  // namespace echelon
