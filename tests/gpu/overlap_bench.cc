// What ladder residual, steps in two parts and the ring hide of communication on a device: one JSON
// object a line. For a single GPU (tests/gpu/run); built over the emulation it is tried without
// one:
//
//   overlap_bench_emulated --scale 64
//
// One rank of two computes, alone on the device, and its partner is emulated: messages take their
// time on the link's stream (link_ops.h), and what comes is a copy of what was sent, so that the
// answer is that of two ranks which hold this rank's shard. Two real ranks would not do on one GPU:
// what one computes while the other waits would hide the wait of either, whatever the schedule, and
// while both compute they have half a GPU each. Alone a rank has the device as with its partner on
// another, and the link stands still for it as for a real one; what is not there is the partner's
// lateness. A link's bytes are copied within the device's memory, which a real one would do too.
//
// C: a step's time without communication (desync that drops every reduce but the last). M: the time
// that the link takes for the messages of "standard", or of the run whose steps are whole. A link
// is set so that M is a given part of C, with what its copies take without any delay; of decode and
// rings half of the rest is latency and half bandwidth. A large sum goes in pieces, each of which
// would have the latency: links of prompts have none. Of each run:
//
//   hidden             (T of standard - T) / (T of standard - C): of what standard waits for
//   hidden_on_device   1 - exposed / busy, by the device's clock (LinkTimes), in a run of its own
//                      that is enqueued op by op, with C and link of its own; no graphs there. Of
//                      decode at most so much: where the host enqueues more slowly than the device
//                      computes, messages end before anything could wait for them
//   predicted          the planner's cost model over the clock (prediction.h)
//   hidden_by_model    as hidden, both times by the cost model: what the unlike lengths of
//   attention
//                      and MLP leave; a message hides behind one of them alone
//
// Tokens and logits must be those of the same run over a link that takes no time, to the bit.

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "common/run_setup.h"
#include "common/strings.h"
#include "tests/gpu/prediction.h"
#include "tests/gpu/solo_rank.h"
#include "tests/support/model_builder.h"

namespace echelon::bench {
namespace {

struct Settings {
  std::string backend = "cuda";
  int scale = 1;
  int threads = 8;
  std::string traces;  // folder: a trace of standard and of ladder; empty: none
};

// What runs, whole or scaled down.
struct Sizes {
  std::vector<int> streams = {1, 8, 64};
  int context = 1024, steps = 64;       // of decode
  int prompt = 4096;                    // of the token split, in one step
  int ring = 65536, ring_rows = 16384;  // positions, rows of a step
  // M / C. A hop of the ring travels behind the attention of the rank's own pages alone: half of
  // all attention, which is most of C at 64k.
  std::vector<double> decode_links = {0.25, 0.5, 1.0, 1.5}, split_links = {0.5, 1.0},
                      ring_links = {0.1, 0.2, 0.3};
};

Sizes SizesOf(int scale) {
  if (scale == 1) return {};
  return {{1, 2}, 32, 3, 64, 256, 128, {1.0}, {1.0}, {0.2}};
}

// The names are those of tests/bench/overlap.py.
struct Schedule {
  const char* name;
  const char* schedule;
  const char* ladder_layers = "";
  const char* desync_pattern = "";
};
constexpr Schedule kNone = {"none", "desync", "", "00"};
constexpr Schedule kStandard = {"standard", "standard"};
constexpr Schedule kLadder = {"ladder", "ladder"};
constexpr Schedule kOthers[] = {{"ladder, last half", "ladder", "last:half"},
                                {"parallel", "parallel"},
                                {"desync, every second", "desync", "", "01"}};
[[noreturn]] void Stop(const std::string& message) {
  std::fprintf(stderr, "overlap_bench: %s\n", message.c_str());
  std::exit(1);
}
template <typename T>
T Must(Result<T> result) {
  if (!result.ok()) Stop(result.error().message);
  return std::move(result).value();
}

void Print(const std::string& name, double value, const char* unit, const std::string& more = "") {
  std::printf("{\"name\": \"overlap, %s\", \"value\": %.6g, \"unit\": \"%s\"%s}\n", name.c_str(),
              value, unit, more.c_str());
  std::fflush(stdout);
}
std::string Field(const char* key, double value) {
  return std::isfinite(value) ? StrCat(", \"", key, "\": ", value) : "";
}
std::string FieldsOf(const LinkSpeed& link) {
  return StrCat(Field("latency_us", 1e6 * link.latency_s),
                Field("gb_per_s", 1e-9 / link.seconds_per_byte));
}

// A Llama of 1.2B parameters, bfloat16, dummy weights.
TinyModel Shape(int scale) {
  TinyModel model;
  model.head_dim = 64;
  model.d_model = std::max(128, 2048 / scale);
  model.n_layers = scale > 1 ? 2 : 16;
  model.n_heads = scale > 1 ? 4 : 32;
  model.n_kv_heads = scale > 1 ? 2 : 8;
  model.d_ff = std::max(256, 8192 / scale);
  model.vocab = scale > 1 ? 512 : 128256;
  model.context = 131072;
  model.format = TensorFormat::kBF16;
  return model;
}

ModelConfig ModelOf(const Checkpoint& checkpoint, const Schedule& schedule) {
  const ModelConfig& model = checkpoint.config();
  ModelSettings settings;
  settings.schedule = schedule.schedule;
  settings.ladder_layers = schedule.ladder_layers;
  if (settings.ladder_layers == "last:half") {
    settings.ladder_layers = StrCat("last:", model.n_layers() / 2);
  }
  settings.desync_pattern = schedule.desync_pattern;
  return Must(ModelFrom(model, settings)).model;
}

// Over which the messages of `traffic` take `seconds`.
LinkSpeed LinkFor(double seconds, const LinkTraffic& traffic) {
  return {0.5 * seconds / std::max(1.0, traffic.operations),
          0.5 * seconds / std::max(1.0, traffic.bytes)};
}
// What the link takes by itself, `own` seconds of the `ratio` parts of `compute`, is not
// programmed.
LinkSpeed LinkBeside(double ratio, double compute, double own, const LinkTraffic& traffic) {
  return LinkFor(std::max(0.0, ratio * compute - own), traffic);
}
LinkTraffic Over(const LinkTraffic& traffic, double steps) {
  return {traffic.operations / steps, traffic.bytes / steps, traffic.delayed_s / steps};
}

void CheckSame(const std::string& name, const StepTimes& want, const StepTimes& got) {
  if (want.tokens.empty() || want.tokens != got.tokens || want.logits != got.logits) {
    Stop(StrCat(name, ": the link's delay changed what was computed"));
  }
}

class OverlapBench {
 public:
  OverlapBench(const Settings& settings, const Checkpoint& checkpoint)
      : settings_(settings), sizes_(SizesOf(settings.scale)), checkpoint_(checkpoint) {}

  void Run() {
    Decode();
    OnDevice();
    Split();
    Ring();
    Print("greatest error of the cost model", worst_, "ratio",
          StrCat(", \"runs\": ", predictions_));
  }

 private:
  // Of decode, by streams.
  struct Base {
    double none = 0.0;                  // C
    Shares shares;                      // of C
    LinkTraffic traffic;                // of a step of "standard"
    double exchange = 0.0;              // what one of its messages takes over a link without delay
    std::map<double, double> standard;  // seconds over the links
    double Own() const { return exchange * traffic.operations; }
  };

  ParallelLayout Tp() const { return {.tp = 2}; }
  SoloOptions DecodeOptions() const {
    SoloOptions options;
    options.backend = {.name = settings_.backend, .threads = settings_.threads};
    options.layout = Tp();
    options.streams = sizes_.streams.back();
    options.positions = (sizes_.context + sizes_.steps + 31) / 16 * 16;
    return options;
  }
  std::unique_ptr<SoloRank> Start(const Schedule& schedule, const SoloOptions& options) const {
    return Must(SoloRank::Start(checkpoint_, ModelOf(checkpoint_, schedule), options));
  }

  StepTimes DecodeOver(SoloRank& rank, int streams, const LinkSpeed& link) const {
    rank.SetLink({});
    Must(rank.Prompt(streams, sizes_.context));
    rank.SetLink(link);
    return Must(rank.Decode(sizes_.steps));
  }

  double Predicted(const Prediction& prediction, const ModelConfig& model, const LinkSpeed& link,
                   bool split, double measured) {
    const double ratio = prediction.Seconds(model, link, split) / measured;
    worst_ = std::max(worst_, std::abs(ratio - 1.0));
    ++predictions_;
    return ratio;
  }

  void Decode() {
    {
      Trace trace(0, "device");
      SoloOptions options = DecodeOptions();
      options.trace = &trace;
      const auto traced = Start(kNone, options);
      for (const int streams : sizes_.streams) {
        Must(traced->Prompt(streams, sizes_.context));
        const size_t begin = trace.events().size();
        Must(traced->Decode(3));
        bases_[streams].shares = SharesOf(trace.events(), begin);
      }
    }
    {
      const auto none = Start(kNone, DecodeOptions());
      for (auto& [streams, base] : bases_) base.none = DecodeOver(*none, streams, {}).Median();
    }
    DecodeWith(kStandard);
    DecodeWith(kLadder);
    for (const Schedule& schedule : kOthers) DecodeWith(schedule);
  }

  void DecodeWith(const Schedule& schedule) {
    const bool is_standard = schedule.name == std::string_view(kStandard.name);
    const ModelConfig model = ModelOf(checkpoint_, schedule);
    const auto rank = Start(schedule, DecodeOptions());
    for (auto& [streams, base] : bases_) {
      const StepTimes at_once = DecodeOver(*rank, streams, {});
      if (is_standard) {
        base.traffic = Over(at_once.traffic, sizes_.steps);
        base.exchange = std::max(0.0, at_once.Median() - base.none) / base.traffic.operations;
      }
      const std::string of = StrCat("decode of ", streams);
      Print(StrCat(of, ", a link without delay, ", schedule.name), 1e3 * at_once.Median(), "ms",
            Field("none_ms", 1e3 * base.none));
      for (const double ratio : sizes_.decode_links) {
        const LinkSpeed link = LinkBeside(ratio, base.none, base.Own(), base.traffic);
        const StepTimes over = DecodeOver(*rank, streams, link);
        CheckSame(StrCat(of, ", ", schedule.name), at_once, over);
        const double seconds = over.Median();
        if (is_standard) base.standard[ratio] = seconds;
        ReportDecode(StrCat(of, ", M/C ", ratio, ", ", schedule.name), model, streams, link, ratio,
                     seconds);
      }
    }
  }

  void ReportDecode(const std::string& name, const ModelConfig& model, int streams,
                    const LinkSpeed& link, double ratio, double seconds) {
    const Base& base = bases_.at(streams);
    const Phase phase = {false, sizes_.context + sizes_.steps / 2.0, static_cast<double>(streams)};
    const Prediction prediction(ModelOf(checkpoint_, kNone), Tp(), phase, base.none, base.shares);
    // Also without a delay a message takes something: its copies, and a longer pass that adds it.
    const LinkSpeed whole = {link.latency_s + base.exchange, link.seconds_per_byte};
    const double standard = base.standard.at(ratio);
    const double by_model = prediction.Seconds(ModelOf(checkpoint_, kStandard), whole, false);
    const double saved = by_model - prediction.Seconds(model, whole, false);
    Print(name, 1e3 * seconds, "ms",
          StrCat(FieldsOf(link), Field("m_over_c", std::max(ratio, base.Own() / base.none)),
                 Field("times_standard", standard / seconds),
                 Field("hidden", (standard - seconds) / (standard - base.none)),
                 Field("hidden_by_model", saved / (by_model - base.none)),
                 Field("predicted", Predicted(prediction, model, whole, false, seconds))));
  }

  // Hidden shares by the device's clock, and traces to draw.
  void OnDevice() {
    std::map<int, double> none;
    std::map<int, LinkSpeed> links;
    for (const Schedule& schedule : {kNone, kStandard, kLadder}) {
      Trace trace(0, StrCat("one of two, ", schedule.name));
      SoloOptions options = DecodeOptions();
      options.trace = &trace;
      const auto rank = Start(schedule, options);
      for (const int streams : sizes_.streams) {
        if (schedule.name == std::string_view(kNone.name)) {
          none[streams] = DecodeOver(*rank, streams, {}).Median();
          continue;
        }
        if (links.count(streams) == 0) {
          const Base& base = bases_.at(streams);
          links[streams] = LinkBeside(1.0, none[streams], base.Own(), base.traffic);
        }
        const StepTimes over = DecodeOver(*rank, streams, links[streams]);
        const double busy = over.hidden_s + over.exposed_s;
        Print(StrCat("decode of ", streams, ", M/C 1, ", schedule.name, ", op by op"),
              1e3 * over.Median(), "ms",
              StrCat(FieldsOf(links[streams]), Field("none_ms", 1e3 * none[streams]),
                     Field("hidden_on_device", busy > 0.0 ? over.hidden_s / busy : 0.0)));
      }
      if (settings_.traces.empty() || schedule.name == std::string_view(kNone.name)) continue;
      WriteTrace(trace, schedule.name);
    }
  }

  // As `echelon trace` and the ranks of a service write it; tests/bench/overlap_picture.py draws
  // it.
  void WriteTrace(const Trace& trace, const char* name) const {
    const std::string folder = StrCat(settings_.traces, "/", name);
    mkdir(settings_.traces.c_str(), 0777);
    mkdir(folder.c_str(), 0777);
    if (const Status written = trace.Write(folder); !written.ok()) Stop(written.error().message);
  }

  // A prompt in one step, whole or in two parts.
  void Split() {
    SoloOptions options = DecodeOptions();
    options.streams = 1;
    options.step_rows = sizes_.prompt;
    options.positions = sizes_.prompt + 32;
    const Phase phase = {true, static_cast<double>(sizes_.prompt),
                         static_cast<double>(sizes_.prompt)};
    const Shares shares = PromptShares(kNone, options, sizes_.prompt);
    const double none = PromptOver(*Start(kNone, options), sizes_.prompt, {}).Sum();
    const Prediction prediction(ModelOf(checkpoint_, kNone), Tp(), phase, none, shares);
    const ModelConfig model = ModelOf(checkpoint_, kStandard);
    std::map<double, double> whole;
    LinkTraffic traffic;
    double copies = 0.0;  // of a byte, without delay
    for (const TokenSplitMode mode : {TokenSplitMode::kOff, TokenSplitMode::kOn}) {
      const bool split = mode == TokenSplitMode::kOn;
      options.split = mode;
      options.backend.timed = true;  // nothing of so many rows is repeated
      const auto rank = Start(kStandard, options);
      const StepTimes at_once = PromptOver(*rank, sizes_.prompt, {});
      if (!split) {
        traffic = at_once.traffic;
        copies = std::max(0.0, at_once.Sum() - none) / traffic.bytes;
      }
      for (const double ratio : sizes_.split_links) {
        const double per_byte = ratio * none / traffic.bytes;
        const LinkSpeed link = {0.0, std::max(0.0, per_byte - copies)};
        const LinkSpeed modelled = {0.0, link.seconds_per_byte + copies};
        const StepTimes over = PromptOver(*rank, sizes_.prompt, link);
        const std::string name =
            StrCat("prompt of ", sizes_.prompt, ", M/C ", ratio, split ? ", split" : ", whole");
        CheckSame(name, at_once, over);
        if (!split) whole[ratio] = over.Sum();
        const double busy = over.hidden_s + over.exposed_s;
        Print(
            name, 1e3 * over.Sum(), "ms",
            StrCat(FieldsOf(link), Field("none_ms", 1e3 * none),
                   Field("times_whole", whole[ratio] / over.Sum()),
                   Field("hidden_on_device", busy > 0.0 ? over.hidden_s / busy : 0.0),
                   Field("predicted", Predicted(prediction, model, modelled, split, over.Sum()))));
      }
    }
  }

  Shares PromptShares(const Schedule& schedule, SoloOptions options, int tokens) const {
    Trace trace(0, "device");
    options.trace = &trace;
    const auto traced = Start(schedule, options);
    Must(traced->Prompt(1, tokens));  // warms up
    const size_t begin = trace.events().size();
    Must(traced->Prompt(1, tokens));
    return SharesOf(trace.events(), begin);
  }
  StepTimes PromptOver(SoloRank& rank, int tokens, const LinkSpeed& link) const {
    rank.SetLink(link);
    StepTimes least = Must(rank.Prompt(1, tokens));
    for (int more = 0; more < 2; ++more) {
      rank.SetLink(link);
      StepTimes again = Must(rank.Prompt(1, tokens));
      if (again.Sum() < least.Sum()) least = std::move(again);
    }
    return least;
  }

  // Keys and values between two sp ranks.
  void Ring() {
    SoloOptions options = DecodeOptions();
    options.layout = {.sp = 2};
    options.streams = 1;
    options.step_rows = sizes_.ring_rows;
    options.positions = sizes_.ring + 32;
    const Phase phase = {true, static_cast<double>(sizes_.ring),
                         static_cast<double>(sizes_.ring_rows)};
    const Shares shares = PromptShares(kStandard, options, sizes_.ring);
    options.backend.timed = true;  // stages and rings are never repeated
    const auto rank = Start(kStandard, options);
    const StepTimes at_once = PromptOver(*rank, sizes_.ring, {});
    const double compute = at_once.Sum();
    const ModelConfig model = ModelOf(checkpoint_, kStandard);
    const Prediction prediction(model, options.layout, phase, compute, shares);
    for (const double ratio : sizes_.ring_links) {
      const LinkSpeed link = LinkFor(ratio * compute, at_once.traffic);
      const StepTimes over = PromptOver(*rank, sizes_.ring, link);
      const std::string name = StrCat("ring at ", sizes_.ring, ", M/C ", ratio);
      CheckSame(name, at_once, over);
      const double busy = over.hidden_s + over.exposed_s;
      Print(name, over.Sum(), "s",
            StrCat(FieldsOf(link), Field("none_s", compute),
                   Field("hidden", 1.0 - (over.Sum() - compute) / over.traffic.delayed_s),
                   Field("hidden_on_device", busy > 0.0 ? over.hidden_s / busy : 0.0),
                   Field("keys_passed", over.keys_passed),
                   Field("predicted", Predicted(prediction, model, link, false, over.Sum()))));
    }
  }

  const Settings settings_;
  const Sizes sizes_;
  const Checkpoint& checkpoint_;
  std::map<int, Base> bases_;
  double worst_ = 0.0;  // of all predictions: |predicted / measured - 1|
  int predictions_ = 0;
};

int Main(const Settings& settings) {
  const ScratchFolder folder;
  const auto checkpoint = TinyDummy(Shape(settings.scale), folder.path());
  OverlapBench(settings, *checkpoint).Run();
  return 0;
}

}  // namespace
}  // namespace echelon::bench

int main(int argc, char** argv) {
  echelon::bench::PrepareDevice();
  echelon::bench::Settings settings;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--scale") settings.scale = std::max(1, std::atoi(argv[i + 1]));
    if (flag == "--threads") settings.threads = std::max(1, std::atoi(argv[i + 1]));
    if (flag == "--traces") settings.traces = argv[i + 1];
  }
  return echelon::bench::Main(settings);
}
