// What ranks say to the group, and what it answers: the handshake, loading, results, failures.

#include "common/control.h"
#include "common/strings.h"
#include "coordinator/worker_group.h"

namespace echelon {

namespace {

// Reported by a rank before the group was ever ready, these mean that the model, the settings or
// the machine are wrong: launching again would only repeat them.
bool Curable(ErrorCode code) {
  return code == ErrorCode::kInternal || code == ErrorCode::kUnavailable ||
         code == ErrorCode::kDeadlineExceeded || code == ErrorCode::kCancelled;
}

}  // namespace

bool ManagedGroup::SendTo(int rank, ControlType type, const std::string& body) {
  ControlHeader header;
  header.type = type;
  header.epoch = epoch_;
  header.rank = static_cast<uint32_t>(rank);
  return socket_->Send(ranks_.peer(rank), header, body);
}

void ManagedGroup::Refuse(const ControlFrame& frame, const std::string& reason) {
  ControlHeader header = frame.header;  // its own epoch, or it would not listen
  header.type = ControlType::kRefuse;
  socket_->Send(frame.peer, header, Encode(RefuseMessage{reason}));
}

void ManagedGroup::Handle(const ControlFrame& frame) {
  // Ranks that others started do not know the epoch: they join with 0 and are told.
  const bool asks_epoch = external_ && frame.header.epoch == 0;
  if (frame.header.type == ControlType::kJoin) {
    if (asks_epoch || frame.header.epoch == epoch_) return HandleJoin(frame);
    ++counters_.stale_frames;
    return Refuse(frame,
                  StrCat("epoch ", frame.header.epoch, " is over; the group is at epoch ", epoch_));
  }
  if (frame.header.epoch != epoch_ || !alive()) {
    ++counters_.stale_frames;
    if (frame.header.epoch == epoch_ && frame.header.type == ControlType::kFailure &&
        ranks_.IsFrom(frame.header.rank, frame.peer)) {
      HandleFailure(static_cast<int>(frame.header.rank), frame.body);
    }
    return;
  }
  if (!ranks_.IsFrom(frame.header.rank, frame.peer)) {
    ++malformed_bodies_;  // a stranger, or a rank that speaks for another
    return;
  }
  const int rank = static_cast<int>(frame.header.rank);
  ranks_.status(rank).last_heard_us = clock_.NowUs();
  HandleFromRank(frame, rank);
}

void ManagedGroup::HandleJoin(const ControlFrame& frame) {
  const auto message = DecodeJoin(frame.body);
  if (!message.ok()) {
    ++malformed_bodies_;
    return;
  }
  if (!alive() && frame.header.epoch == 0) return;  // asks again in a second: for the next epoch
  if (!alive()) return Refuse(frame, StrCat("epoch ", epoch_, " is ending"));
  const bool known = ranks_.IsFrom(frame.header.rank, frame.peer);
  const bool open = state_ == GroupState::kStarting && frame.header.rank < ranks_.status().size() &&
                    !ranks_.status(static_cast<int>(frame.header.rank)).joined;
  const Status joined = ranks_.Join(frame.header.rank, frame.peer, *message);
  if (!joined.ok()) {
    Refuse(frame, joined.error().message);
    logger_.Error(StrCat("refused: ", joined.error().message));
    // One's own ranks will be no different the next time; strangers and others' ranks may be.
    if (!external_ && open) Lose(joined.error(), 0, true);
    return;
  }
  const int rank = static_cast<int>(frame.header.rank);
  ranks_.status(rank).last_heard_us = clock_.NowUs();
  processes_->Track(rank, message->pid);
  if (!known) {
    logger_.Info(StrCat(ranks_.Where(rank), " joined, pid ", message->pid, ", interface ",
                        message->interface));
  }
  if (state_ == GroupState::kStarting && ranks_.AllJoined()) return Welcome();
  // A repeated JOIN crossed the welcome on its way.
  if (state_ != GroupState::kStarting) {
    SendTo(rank, ControlType::kWelcome, Encode(WelcomeMessage{options_.config_yaml}));
  }
}

void ManagedGroup::Welcome() {
  logger_.Info(StrCat("epoch ", epoch_, ": all ", options_.world, " ranks joined; loading"));
  state_ = GroupState::kLoading;
  state_since_us_ = last_report_us_ = clock_.NowUs();
  const std::string body = Encode(WelcomeMessage{options_.config_yaml});
  for (int rank = 0; rank < ranks_.world(); ++rank) SendTo(rank, ControlType::kWelcome, body);
}

void ManagedGroup::HandleFromRank(const ControlFrame& frame, int rank) {
  switch (frame.header.type) {
    case ControlType::kHeartbeat: {
      auto heartbeat = DecodeHeartbeat(frame.body);
      if (!heartbeat.ok()) break;
      ranks_.status(rank).waits = std::move(heartbeat).value();
      return;
    }
    case ControlType::kProgress: {
      const auto progress = DecodeProgress(frame.body);
      if (!progress.ok()) break;
      ranks_.status(rank).bytes_done = progress->bytes_done;
      ranks_.status(rank).bytes_total = progress->bytes_total;
      return;
    }
    case ControlType::kReady:
      return HandleReady(rank, frame.body);
    case ControlType::kResult:
      return HandleResult(frame.body);
    case ControlType::kFailure:
      return HandleFailure(rank, frame.body);
    default:
      break;
  }
  ++malformed_bodies_;
}

void ManagedGroup::HandleReady(int rank, const std::string& body) {
  const auto message = DecodeReady(body);
  if (!message.ok() || state_ != GroupState::kLoading || ranks_.status(rank).ready) {
    ++malformed_bodies_;
    return;
  }
  const Status agreed = ranks_.Ready(rank, *message);
  if (!agreed.ok()) return Lose(agreed.error(), 0, !ever_ready_);
  if (ranks_.AllReady()) BecomeReady();
}

void ManagedGroup::BecomeReady() {
  const ReadyMessage& agreed = ranks_.agreed();
  if (ever_ready_ && (agreed.weights_fingerprint != weights_fingerprint_ ||
                      agreed.numerics_fingerprint != numerics_fingerprint_)) {
    return Lose(InvalidArgument(StrCat("epoch ", epoch_, " came up with weights ",
                                       agreed.weights_fingerprint, " and numerics ",
                                       agreed.numerics_fingerprint, ", before it was ",
                                       weights_fingerprint_, " and ", numerics_fingerprint_,
                                       ": the model's files or the machines changed; restart")),
                0, true);
  }
  weights_fingerprint_ = agreed.weights_fingerprint;
  numerics_fingerprint_ = agreed.numerics_fingerprint;
  capacity_ = {agreed.kv_pages, agreed.page_tokens, agreed.context_max, agreed.vocab_size};
  ever_ready_ = true;
  const double seconds = static_cast<double>(clock_.NowUs() - state_since_us_) * 1e-6;
  state_ = GroupState::kReady;
  state_since_us_ = clock_.NowUs();
  logger_.Info(StrCat("epoch ", epoch_, ": ready after ", seconds, " s of loading; ",
                      agreed.backend, "; ", agreed.kv_pages, " KV pages of ", agreed.page_tokens,
                      " tokens"));
}

void ManagedGroup::HandleResult(const std::string& body) {
  auto result = DecodeResult(body);
  if (!result.ok() || in_flight_.empty() || result->epoch != epoch_ ||
      result->step_id != in_flight_.front().step_id) {
    ++malformed_bodies_;
    return;
  }
  in_flight_.pop_front();
  first_step_ = false;
  oldest_since_us_ = clock_.NowUs();
  ++counters_.results;
  results_.push_back(std::move(*result));
}

void ManagedGroup::HandleFailure(int rank, const std::string& body) {
  auto message = DecodeFailure(body);
  if (!message.ok()) {
    ++malformed_bodies_;
    return;
  }
  Error& error = message->error;
  error.rank = rank;
  error.host = ranks_.status(rank).host;
  error.message = StrCat(ranks_.OnHost(rank), ": ", error.message);
  logger_.Error(error.message);
  ranks_.status(rank).last_error = error;
  if (!alive() || (loss_ && loss_->act_us <= clock_.NowUs())) return;
  loss_.reset();  // the reason says more than the death that was noticed a moment ago
  Lose(error, 0, !ever_ready_ && !Curable(error.code));
}

Status ManagedGroup::SendPlan(const StepPlan& plan) {
  if (state_ != GroupState::kReady || loss_) {
    return Unavailable(StrCat("the worker group is ", GroupStateName(state_)));
  }
  CHECK_MSG(plan.epoch == epoch_, "a plan of another epoch");
  if (!SendTo(0, ControlType::kPlan, EncodePlan(plan))) {
    Lose(RankError(0, "its connection closed: the process died"), 0);
    return Unavailable("the worker group's lead is gone");
  }
  const int64_t now_us = clock_.NowUs();
  if (in_flight_.empty()) oldest_since_us_ = now_us;
  in_flight_.push_back({plan.step_id, now_us});
  ++counters_.plans;
  return {};
}

}  // namespace echelon
