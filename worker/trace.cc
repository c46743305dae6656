#include "worker/trace.h"

#include <chrono>
#include <cstdio>
#include <fstream>
#include <set>
#include <utility>

#include "common/json.h"
#include "common/strings.h"

namespace echelon {

namespace {

constexpr std::pair<TraceTrack, const char*> kTracks[] = {{TraceTrack::kStep, "steps"},
                                                          {TraceTrack::kCompute, "compute"},
                                                          {TraceTrack::kWait, "waits"},
                                                          {TraceTrack::kInFlight, "in flight"}};
// Names of a rank's further tracks, those that have events.
std::string NameOfTrack(int track) {
  const int link = track - static_cast<int>(TraceTrack::kDeviceLink);
  if (link >= 0) return StrCat("device communication", link > 0 ? StrCat(" ", link + 1) : "");
  return track == static_cast<int>(TraceTrack::kDeviceWait)
             ? "device waits"
             : "device compute (op by op, no graphs)";
}
// Shorter ones are the two stamps of a wait for what is there.
constexpr int64_t kDeviceWaitNsMin = 2000;

TraceTrack TrackOf(OpPlace place) {
  switch (place) {
    case OpPlace::kHost:
      return TraceTrack::kCompute;
    case OpPlace::kDevice:
      return TraceTrack::kDeviceCompute;
    case OpPlace::kDeviceWait:
      return TraceTrack::kDeviceWait;
    case OpPlace::kDeviceLink:
      return TraceTrack::kDeviceLink;
  }
  return TraceTrack::kCompute;
}

int TrackOf(const TraceEvent& event) {
  const int link = event.track == TraceTrack::kDeviceLink ? event.message : 0;
  return static_cast<int>(event.track) + link;
}

std::string NameLine(const char* kind, int rank, int track, const std::string& name) {
  return StrCat(R"({"name":")", kind, R"(","ph":"M","pid":)", rank, R"(,"tid":)", track,
                R"(,"args":{"name":)", Json(name).Dump(), "}}");
}

// Microseconds with three decimals, as the format wants them.
std::string Micros(int64_t ns) {
  char text[32];
  std::snprintf(text, sizeof text, "%lld.%03d", static_cast<long long>(ns / 1000),
                static_cast<int>(ns % 1000));
  return text;
}

std::string ArgsOf(const TraceEvent& event) {
  switch (event.track) {
    case TraceTrack::kStep:
      return StrCat(R"("rows":)", event.amount, R"(,"sequences":)", event.sequences);
    case TraceTrack::kCompute:
    case TraceTrack::kDeviceCompute:
      return StrCat(R"("rows":)", event.amount, R"(,"layer":)", event.layer);
    case TraceTrack::kDeviceWait:
    case TraceTrack::kDeviceLink:
      return StrCat(R"("layer":)", event.layer);
    default:
      return StrCat(R"("bytes":)", event.amount, R"(,"layer":)", event.layer, R"(,"message":)",
                    event.message);
  }
}

}  // namespace

Trace::Trace(int rank, std::string host) : rank_(rank), host_(std::move(host)) {
  events_.reserve(kTraceEventsMax);
}

int64_t Trace::NowNs() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

void Trace::NameWeights(const Weights& weights, int layer_begin) {
  layer_begin_ = layer_begin;
  const auto name = [&](const void* subject, const char* what, int layer) {
    if (subject != nullptr) names_[subject] = {what, layer};
  };
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    const LayerWeights& layer = weights.layers[i];
    const int number = layer_begin + static_cast<int>(i);
    name(layer.attention_norm.get(), "attention_norm", number);
    name(layer.qkv.get(), "qkv", number);
    name(layer.attention_out.get(), "attention_out", number);
    name(layer.post_attention_norm.get(), "add_residual", number);
    name(layer.mlp_norm.get(), "mlp_norm", number);
    name(layer.gate_up.get(), "gate_up", number);
    name(layer.down.get(), "down", number);
    name(layer.post_mlp_norm.get(), "add_residual", number);
  }
  name(weights.final_norm.get(), "final_norm", -1);
  name(weights.head.get(), "head", -1);
}

void Trace::OnOp(const OpTime& time) {
  TraceEvent event;
  event.name = time.op;
  event.track = TrackOf(time.place);
  event.amount = time.rows;
  event.message = time.link;
  event.begin_ns = time.begin_ns;
  event.end_ns = time.end_ns;
  const auto named = names_.find(time.subject);
  const std::string_view op = time.op;
  if (named != names_.end() && op != "embed") {  // the head may be the embedding table
    event.name = named->second.name;
    layer_ = named->second.layer;
  } else if (time.layer >= 0) {
    layer_ = layer_begin_ + time.layer;
  } else if (op == "embed" || op == "gather_rows") {
    layer_ = -1;
  }
  event.layer = layer_;
  const bool waited = time.end_ns - time.begin_ns >= kDeviceWaitNsMin;
  if (time.place != OpPlace::kDeviceWait || waited) Add(event);
}

void Trace::Add(const TraceEvent& event) {
  if (events_.size() < kTraceEventsMax) events_.push_back(event);
}

void Trace::AddStep(const StepPlan& plan, int64_t begin_ns) {
  TraceEvent event;
  event.name = "step";
  event.sequences = static_cast<int32_t>(plan.sequences.size());
  for (const SequenceStep& step : plan.sequences) {
    event.amount += static_cast<int64_t>(step.tokens.size());
  }
  event.begin_ns = begin_ns;
  event.end_ns = NowNs();
  if (event.amount > 0) Add(event);
  layer_ = -1;
}

Status Trace::Write(const std::string& folder) const {
  const std::string path = StrCat(folder, "/rank-", rank_, ".json");
  std::ofstream out(path, std::ios::binary);
  out << "[\n" << NameLine("process_name", rank_, 0, StrCat("rank ", rank_, " (", host_, ")"));
  for (const auto& [track, name] : kTracks) {
    out << ",\n" << NameLine("thread_name", rank_, static_cast<int>(track), name);
  }
  std::set<int> of_device;
  for (const TraceEvent& event : events_) {
    if (event.track >= TraceTrack::kDeviceCompute) of_device.insert(TrackOf(event));
  }
  for (const int track : of_device) {
    out << ",\n" << NameLine("thread_name", rank_, track, NameOfTrack(track));
  }
  for (const TraceEvent& event : events_) {
    const std::string head =
        StrCat(",\n{\"name\":\"", event.name, R"(","cat":"echelon","pid":)", rank_, R"(,"tid":)",
               TrackOf(event), R"(,"args":{)", ArgsOf(event), "},\"ts\":");
    if (event.track == TraceTrack::kInFlight) {  // these overlap: pairs of begin and end
      const std::string id = StrCat(R"(,"id":)", event.message, "}");
      out << head << Micros(event.begin_ns) << R"(,"ph":"b")" << id;
      out << head << Micros(event.end_ns) << R"(,"ph":"e")" << id;
    } else {
      out << head << Micros(event.begin_ns) << R"(,"ph":"X","dur":)"
          << Micros(event.end_ns - event.begin_ns) << "}";
    }
  }
  out << "\n]\n";
  out.close();
  if (out) return {};
  return Unavailable(StrCat("cannot write the trace ", path,
                            ": does the folder exist there, "
                            "and is there room?"));
}

}  // namespace echelon
