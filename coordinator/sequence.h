#pragma once
// Sequence: a Request's progress. It holds the token log, which is the truth about the request:
// whatever is computed behind it can be lost and is computed again from here, with the emitted
// tokens fed as generated tokens (forced), never sampled anew.
//
// Thread: the coordinator's. Lifetime: from acceptance until the log's time for resuming is over.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/step.h"
#include "coordinator/request.h"
#include "coordinator/text_stream.h"

namespace echelon {

enum class FinishReason { kNone, kStop, kLength, kCancelled, kError };
const char* FinishReasonName(FinishReason reason);

struct TokenLogEntry {
  int32_t token = 0;
  std::string text;               // became certain with this token
  std::vector<TokenLogprob> top;  // where the request asked for logprobs
  uint32_t logit_bits = 0;        // the raw logit's IEEE bits: the proof of bit-exact replay
  uint64_t hash = 0;              // rolling, over (token, logit_bits) of all entries so far
};

// What one rank spent on the steps that this sequence took part in.
struct RankTotals {
  int64_t steps = 0;
  double compute_s = 0, comm_hidden_s = 0, comm_exposed_s = 0;
};

struct SequenceTimes {  // microseconds of the Clock; 0 = not yet
  int64_t accepted = 0, first_planned = 0, first_token = 0, last_token = 0, finished = 0;
};

struct DraftTotals {  // of speculation, in tokens
  int64_t drafted = 0, accepted = 0;
};

class Sequence {
 public:
  // `end_ids`: tokens that end a text. prompt() is filled by SetPrompt after tokenizing.
  Sequence(SequenceId id, Request request, const Tokenizer& tokenizer);

  SequenceId id() const { return id_; }
  const Request& request() const { return request_; }
  bool internal() const { return request_.id.empty(); }  // the service's own probe

  void SetPrompt(std::vector<int32_t> prompt, int32_t max_tokens);
  std::span<const int32_t> prompt() const { return tokens().first(prompt_size_); }
  int32_t max_tokens() const { return max_tokens_; }
  int32_t prompt_size() const { return prompt_size_; }
  int32_t generated() const { return static_cast<int32_t>(log_.size()); }
  // Prompt and log together: every token that is known, by absolute position.
  int32_t known_size() const { return static_cast<int32_t>(tokens_.size()); }
  int32_t TokenAt(int32_t position) const;
  std::span<const int32_t> tokens() const { return tokens_; }
  const std::vector<TokenLogEntry>& log() const { return log_; }

  // Appends a sampled token; may finish the sequence (end of text, stop, length).
  void Append(const SampledToken& sampled, int64_t now_us);
  // A replayed position gave what the log has: token and logit, bit for bit.
  bool MatchesLog(int32_t log_index, const SampledToken& sampled) const;
  // prompt_logprobs of a chunk that begins at `row_begin`: one entry per prompt token of the chunk
  // but the prompt's first.
  void AddPromptLogprobs(int32_t row_begin, const std::vector<std::vector<TokenLogprob>>& tops);
  const std::vector<std::vector<TokenLogprob>>& prompt_logprobs() const { return prompt_top_; }
  void AddTimings(const std::vector<RankTiming>& timings);
  const std::vector<RankTotals>& ranks() const { return ranks_; }
  int64_t MemoryBytes() const;  // of prompt and log, about

  // Ends the sequence from outside (cancel, length of a request that generates nothing, error).
  void Finish(FinishReason reason, int64_t now_us);
  void Fail(Error error, int64_t now_us, std::optional<int64_t> retry_after_ms = {});
  bool finished() const { return finish_ != FinishReason::kNone; }
  FinishReason finish_reason() const { return finish_; }
  const std::string& rest_text() const { return rest_text_; }  // held back until the end
  const std::optional<Error>& error() const { return error_; }
  std::optional<int64_t> retry_after_ms() const { return retry_after_ms_; }

  SequenceTimes times;
  DraftTotals drafts;

 private:
  const SequenceId id_;
  Request request_;
  std::vector<int32_t> end_ids_;
  std::vector<int32_t> tokens_;  // prompt, then the log's
  int32_t prompt_size_ = 0;
  int32_t max_tokens_ = 0;
  std::vector<TokenLogEntry> log_;
  std::vector<std::vector<TokenLogprob>> prompt_top_;  // [0] belongs to position 1
  std::vector<RankTotals> ranks_;
  TextStream text_;
  std::string rest_text_;
  FinishReason finish_ = FinishReason::kNone;
  std::optional<Error> error_;
  std::optional<int64_t> retry_after_ms_;
};

}  // namespace echelon
