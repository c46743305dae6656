// echelon bench: how fast a service is, as its clients see it.

#include <unistd.h>

#include <cstdio>

#include "client/cli/answer.h"
#include "client/cli/bench.h"
#include "client/cli/commands.h"
#include "client/cli/local_config.h"
#include "client/cli/service.h"
#include "common/run_setup.h"
#include "common/strings.h"

namespace echelon {

namespace {

constexpr int64_t kStatusTimeoutMs = 10'000;

struct Report {
  std::vector<double> prefill, decode, served;  // tokens a second, one of each run
  double bytes_per_token = 0.0;
  double read_bytes_per_s = 0.0;  // 0: not measured
  ServiceStatus status;

  // Of decode's speed to what the memory allows.
  Spread BandwidthFraction() const {
    const double scale = bytes_per_token / read_bytes_per_s;
    const Spread rate = SpreadOf(decode);
    return {rate.median * scale, rate.min * scale, rate.max * scale};
  }
};

Json SpreadToJson(const Spread& spread) {
  Json out = Json::MakeObject();
  out.Set("median", spread.median);
  out.Set("min", spread.min);
  out.Set("max", spread.max);
  return out;
}

Json ReportToJson(const BenchOptions& options, const Report& report) {
  Json out = Json::MakeObject();
  out.Set("model", report.status.model);
  out.Set("version", report.status.version);
  out.Set("layout", LayoutToJson(report.status.layout));
  Json backends = Json::MakeArray();
  for (const RankProgress& rank : report.status.ranks) backends.Append(rank.backend);
  out.Set("backends", std::move(backends));
  out.Set("prompt_tokens", options.prompt);
  out.Set("gen_tokens", options.gen);
  out.Set("streams", options.streams);
  out.Set("repeat", options.repeat);
  out.Set("prefill_tokens_per_s", SpreadToJson(SpreadOf(report.prefill)));
  out.Set("decode_tokens_per_s", SpreadToJson(SpreadOf(report.decode)));
  out.Set("served_tokens_per_s", SpreadToJson(SpreadOf(report.served)));
  out.Set("bytes_per_token", report.bytes_per_token);
  const bool measured = report.read_bytes_per_s > 0.0;
  out.Set("memory_read_gb_per_s", measured ? Json(report.read_bytes_per_s / 1e9) : Json());
  out.Set("bandwidth_fraction", measured ? SpreadToJson(report.BandwidthFraction()) : Json());
  return out;
}

std::string Row(const std::string& name, const Spread& spread, const char* unit) {
  char line[160];
  std::snprintf(line, sizeof line, "%-34s %10.1f %s (%.1f to %.1f)\n", name.c_str(), spread.median,
                unit, spread.min, spread.max);
  return line;
}

std::string ReportToText(const BenchOptions& options, const Report& report) {
  std::string out =
      StrCat(report.status.model, ", medians of ", options.repeat, " runs (least to most)\n");
  out += Row(StrCat("prefill of ", options.prompt), SpreadOf(report.prefill), "tokens/s");
  out += Row(StrCat("decode, context ", options.prompt), SpreadOf(report.decode), "tokens/s");
  out += Row(StrCat(options.streams, " x ", options.prompt, " in, ", options.gen, " out, served"),
             SpreadOf(report.served), "tokens/s");
  char line[200];
  std::snprintf(line, sizeof line, "%-34s %10.1f MB\n", "read for one decoded token",
                report.bytes_per_token / 1e6);
  out += line;
  if (report.read_bytes_per_s == 0.0) return out + "memory: not measured (worker.measure_memory)\n";
  std::snprintf(line, sizeof line, "%-34s %10.1f GB/s: decode takes %.0f %% of it\n",
                "memory, read by the same threads", report.read_bytes_per_s / 1e9,
                100 * report.BandwidthFraction().median);
  return out + line;
}

// All of it, with the service open.
Result<Report> Measure(const BenchOptions& options, const ModelConfig& model, int token_ids,
                       Service& service, Interrupts& interrupts) {
  const auto on_wait = [&]() -> Status {
    if (interrupts.Take()) return Error{ErrorCode::kCancelled, "interrupted"};
    return service.Check();
  };
  Report report;
  ASSIGN_OR_RETURN(report.status, service.client().GetStatus(kStatusTimeoutMs));
  const BenchLoad load = {options.prompt, options.gen, options.streams, token_ids};
  Bench bench(service.client(), load, static_cast<uint64_t>(DrawSeed()), on_wait);
  RETURN_IF_ERROR(bench.WarmUp());
  for (int64_t run = 0; run < options.repeat; ++run) {
    ASSIGN_OR_RETURN(const BenchRates rates, bench.Run());
    report.prefill.push_back(rates.prefill);
    report.decode.push_back(rates.decode);
    report.served.push_back(rates.served);
    char line[160];
    std::snprintf(line, sizeof line, "run %d of %d: prefill %.0f, decode %.1f, served %.1f\n",
                  static_cast<int>(run + 1), static_cast<int>(options.repeat), rates.prefill,
                  rates.decode, rates.served);
    PrintNote(line);
  }
  // The tokens after the first see `prompt` to `prompt + gen` positions.
  const double context = static_cast<double>(options.prompt) + static_cast<double>(options.gen) / 2;
  report.bytes_per_token = BytesPerToken(model, report.status, context);
  report.read_bytes_per_s = ReadBytesPerSecond(report.status);
  return report;
}

}  // namespace

Status RunBench(const BenchOptions& options, Interrupts& interrupts) {
  ASSIGN_OR_RETURN(const ServiceConfig config, LocalConfig(options.service));
  ASSIGN_OR_RETURN(const RunSetup setup, SetUpRun(config));
  ASSIGN_OR_RETURN(const int token_ids, UsableTokenIds(config, setup.effective.model));
  ServiceOptions service_options = options.service;
  if (service_options.connect.empty()) {
    // First, so that a --set of the user's comes after it.
    service_options.settings.emplace(service_options.settings.begin(), "worker.measure_memory",
                                     "yes");
  }
  ASSIGN_OR_RETURN(const auto service, Service::Open(service_options, interrupts));
  const auto report = Measure(options, setup.effective.model, token_ids, *service, interrupts);
  const Status closed = service->Close();
  if (!report.ok()) return report.error();
  PrintText(options.json ? ReportToJson(options, *report).Dump() + "\n"
                         : ReportToText(options, *report));
  return closed;
}

}  // namespace echelon
