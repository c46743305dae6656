#include "coordinator/sequence.h"

#include <algorithm>
#include <bit>

#include "common/check.h"

namespace echelon {

namespace {

bool Contains(const std::vector<int32_t>& values, int32_t value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

// FNV-1a over the 8 bytes of (token, logit bits), continued from the entry before.
uint64_t Roll(uint64_t hash, int32_t token, uint32_t logit_bits) {
  const uint64_t value = (uint64_t{static_cast<uint32_t>(token)} << 32) | logit_bits;
  for (int shift = 0; shift < 64; shift += 8) {
    hash = (hash ^ ((value >> shift) & 0xFF)) * 0x100000001B3ULL;
  }
  return hash;
}

constexpr uint64_t kHashStart = 0xCBF29CE484222325ULL;

}  // namespace

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "none";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  return "none";
}

Sequence::Sequence(SequenceId id, Request request, const Tokenizer& tokenizer)
    : id_(id),
      request_(std::move(request)),
      end_ids_(tokenizer.end_ids()),
      text_(tokenizer, request_.stop) {}

void Sequence::SetPrompt(std::vector<int32_t> prompt, int32_t max_tokens) {
  CHECK(tokens_.empty() && !prompt.empty() && max_tokens >= 0);
  tokens_ = std::move(prompt);
  prompt_size_ = static_cast<int32_t>(tokens_.size());
  max_tokens_ = max_tokens;
}

int32_t Sequence::TokenAt(int32_t position) const {
  CHECK(position >= 0 && position < known_size());
  return tokens_[position];
}

void Sequence::Append(const SampledToken& sampled, int64_t now_us) {
  CHECK(!finished() && generated() < max_tokens_);
  const uint64_t before = log_.empty() ? kHashStart : log_.back().hash;
  const uint32_t bits = std::bit_cast<uint32_t>(sampled.logit);
  TextStream::Output text = text_.Push(sampled.token);
  log_.push_back(
      {sampled.token, std::move(text.text), sampled.top, bits, Roll(before, sampled.token, bits)});
  tokens_.push_back(sampled.token);
  if (times.first_token == 0) times.first_token = now_us;
  times.last_token = now_us;
  const bool ended = !request_.ignore_eos && Contains(end_ids_, sampled.token);
  if (text.stopped || ended || Contains(request_.stop_token_ids, sampled.token)) {
    Finish(FinishReason::kStop, now_us);
  } else if (generated() == max_tokens_) {
    Finish(FinishReason::kLength, now_us);
  }
}

bool Sequence::MatchesLog(int32_t log_index, const SampledToken& sampled) const {
  const TokenLogEntry& entry = log_.at(log_index);
  return entry.token == sampled.token && entry.logit_bits == std::bit_cast<uint32_t>(sampled.logit);
}

void Sequence::AddPromptLogprobs(int32_t row_begin,
                                 const std::vector<std::vector<TokenLogprob>>& tops) {
  // A replayed row brings the same entry again; only what is new is kept.
  for (size_t i = 0; i < tops.size(); ++i) {
    const size_t position = std::max(row_begin, 1) + i;
    if (position == prompt_top_.size() + 1) prompt_top_.push_back(tops[i]);
  }
}

void Sequence::AddTimings(const std::vector<RankTiming>& timings) {
  for (const RankTiming& timing : timings) {
    if (ranks_.size() <= static_cast<size_t>(timing.rank)) ranks_.resize(timing.rank + 1);
    RankTotals& total = ranks_[timing.rank];
    total.steps += 1;
    total.compute_s += timing.compute_seconds;
    total.comm_hidden_s += timing.comm_hidden_seconds;
    total.comm_exposed_s += timing.comm_exposed_seconds;
  }
}

int64_t Sequence::MemoryBytes() const {
  size_t bytes = sizeof(Sequence) + tokens_.size() * sizeof(int32_t);
  for (const TokenLogEntry& entry : log_) {
    bytes += sizeof entry + entry.text.size() + entry.top.size() * sizeof(TokenLogprob);
  }
  for (const auto& top : prompt_top_) bytes += sizeof top + top.size() * sizeof(TokenLogprob);
  return static_cast<int64_t>(bytes);
}

void Sequence::Finish(FinishReason reason, int64_t now_us) {
  CHECK(!finished() && reason != FinishReason::kNone);
  finish_ = reason;
  times.finished = now_us;
  TextStream::Output rest = text_.Flush();
  rest_text_ = std::move(rest.text);
  if (rest.stopped && reason == FinishReason::kLength) finish_ = FinishReason::kStop;
}

void Sequence::Fail(Error error, int64_t now_us, std::optional<int64_t> retry_after_ms) {
  error_ = std::move(error);
  retry_after_ms_ = retry_after_ms;
  Finish(FinishReason::kError, now_us);
}

}  // namespace echelon
