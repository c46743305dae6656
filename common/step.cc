#include "common/step.h"

#include "common/strings.h"
#include "common/wire.h"

namespace echelon {

namespace {

constexpr uint32_t kPlanMagic = 0x324C5045;    // "EPL2"
constexpr uint32_t kResultMagic = 0x32535245;  // "ERS2"
constexpr uint32_t kBiasMax = 4096;
constexpr uint32_t kTopMax = 256;

void PutParams(WireWriter& out, const SamplingParams& p) {
  out.Put(p.temperature);
  out.Put(p.top_k);
  out.Put(p.top_p);
  out.Put(p.min_p);
  out.Put(p.repetition_penalty);
  out.Put(p.presence_penalty);
  out.Put(p.frequency_penalty);
  out.Put(static_cast<uint32_t>(p.logit_bias.size()));
  for (const auto& [id, bias] : p.logit_bias) {
    out.Put(id);
    out.Put(bias);
  }
  out.Put(p.seed);
  out.Put(p.logprobs);
  out.Put(p.prompt_logprobs);
}

SamplingParams GetParams(WireReader& in) {
  SamplingParams p;
  p.temperature = in.Get<float>();
  p.top_k = in.Get<int32_t>();
  p.top_p = in.Get<float>();
  p.min_p = in.Get<float>();
  p.repetition_penalty = in.Get<float>();
  p.presence_penalty = in.Get<float>();
  p.frequency_penalty = in.Get<float>();
  p.logit_bias.resize(in.GetCount(kBiasMax, 8));
  for (auto& [id, bias] : p.logit_bias) {
    id = in.Get<int32_t>();
    bias = in.Get<float>();
  }
  p.seed = in.Get<uint64_t>();
  p.logprobs = in.Get<int32_t>();
  p.prompt_logprobs = in.Get<int32_t>();
  return p;
}

void PutTop(WireWriter& out, const std::vector<TokenLogprob>& top) {
  out.Put(static_cast<uint32_t>(top.size()));
  for (const TokenLogprob& t : top) {
    out.Put(t.id);
    out.Put(t.logprob);
  }
}

std::vector<TokenLogprob> GetTop(WireReader& in) {
  std::vector<TokenLogprob> top(in.GetCount(kTopMax, 8));
  for (TokenLogprob& t : top) {
    t.id = in.Get<int32_t>();
    t.logprob = in.Get<float>();
  }
  return top;
}

}  // namespace

std::string EncodePlan(const StepPlan& plan) {
  WireWriter out;
  out.Put(kPlanMagic);
  out.Put(plan.step_id);
  out.Put(plan.epoch);
  out.PutVector(plan.released);
  out.Put(static_cast<uint32_t>(plan.sequences.size()));
  for (const SequenceStep& s : plan.sequences) {
    out.Put(s.id);
    out.Put(s.start_position);
    out.PutVector(s.tokens);
    out.PutVector(s.new_pages);
    out.Put(s.sample);
    out.Put(s.drafts);
    out.Put(s.first);
    if (s.first) {
      PutParams(out, s.params);
      out.Put(s.prompt_tokens);
    }
  }
  return out.Take();
}

Result<StepPlan> DecodePlan(std::string_view bytes, const StepLimits& limits) {
  WireReader in(bytes);
  StepPlan plan;
  if (in.Get<uint32_t>() != kPlanMagic) return Corrupt("step plan: bad magic");
  plan.step_id = in.Get<uint64_t>();
  plan.epoch = in.Get<uint64_t>();
  plan.released = in.GetVector<uint64_t>(limits.sequences_max);
  constexpr size_t kSequenceBytesMin = 8 + 4 + 4 + 4 + 1 + 4 + 1;
  plan.sequences.resize(in.GetCount(limits.sequences_max, kSequenceBytesMin));
  for (SequenceStep& s : plan.sequences) {
    s.id = in.Get<uint64_t>();
    s.start_position = in.Get<int32_t>();
    s.tokens = in.GetVector<int32_t>(limits.tokens_max);
    s.new_pages = in.GetVector<int32_t>(limits.pages_max);
    s.sample = in.Get<bool>();
    s.drafts = in.Get<int32_t>();
    s.first = in.Get<bool>();
    if (s.first) {
      s.params = GetParams(in);
      s.prompt_tokens = in.Get<int32_t>();
    }
    if (!in.ok()) break;
  }
  if (!in.AtEnd())
    return Corrupt(StrCat("step plan: ", bytes.size(), " bytes are not one message"));
  return plan;
}

std::string EncodeResult(const StepResult& result) {
  WireWriter out;
  out.Put(kResultMagic);
  out.Put(result.step_id);
  out.Put(result.epoch);
  out.Put(static_cast<uint32_t>(result.sequences.size()));
  for (const SequenceResult& s : result.sequences) {
    out.Put(s.id);
    out.Put(static_cast<uint32_t>(s.sampled.size()));
    for (const SampledToken& token : s.sampled) {
      out.Put(token.token);
      out.Put(token.logit);
      PutTop(out, token.top);
    }
    out.Put(static_cast<uint32_t>(s.prompt_top.size()));
    for (const auto& top : s.prompt_top) PutTop(out, top);
  }
  out.Put(static_cast<uint32_t>(result.timings.size()));
  for (const RankTiming& t : result.timings) {
    out.Put(t.rank);
    out.Put(t.compute_seconds);
    out.Put(t.comm_hidden_seconds);
    out.Put(t.comm_exposed_seconds);
    out.Put(t.queries_passed);
    out.Put(t.keys_passed);
  }
  return out.Take();
}

Result<StepResult> DecodeResult(std::string_view bytes, const StepLimits& limits) {
  WireReader in(bytes);
  StepResult result;
  if (in.Get<uint32_t>() != kResultMagic) return Corrupt("step result: bad magic");
  result.step_id = in.Get<uint64_t>();
  result.epoch = in.Get<uint64_t>();
  constexpr size_t kSequenceBytesMin = 8 + 4 + 4;
  constexpr size_t kSampledBytesMin = 4 + 4 + 4;
  result.sequences.resize(in.GetCount(limits.sequences_max, kSequenceBytesMin));
  for (SequenceResult& s : result.sequences) {
    s.id = in.Get<uint64_t>();
    s.sampled.resize(in.GetCount(limits.tokens_max, kSampledBytesMin));
    for (SampledToken& token : s.sampled) {
      token.token = in.Get<int32_t>();
      token.logit = in.Get<float>();
      token.top = GetTop(in);
    }
    s.prompt_top.resize(in.GetCount(limits.tokens_max, 4));
    for (auto& top : s.prompt_top) top = GetTop(in);
    if (!in.ok()) break;
  }
  constexpr uint32_t kRanksMax = 1 << 16;
  result.timings.resize(in.GetCount(kRanksMax, 24));
  for (RankTiming& t : result.timings) {
    t.rank = in.Get<int32_t>();
    t.compute_seconds = in.Get<float>();
    t.comm_hidden_seconds = in.Get<float>();
    t.comm_exposed_seconds = in.Get<float>();
    t.queries_passed = in.Get<uint32_t>();
    t.keys_passed = in.Get<uint32_t>();
  }
  if (!in.AtEnd())
    return Corrupt(StrCat("step result: ", bytes.size(), " bytes are not one message"));
  return result;
}

}  // namespace echelon
