#include "worker/decoder.h"

#include <algorithm>

#include "common/check.h"
#include "worker/comm/step_comm.h"

namespace echelon {

Decoder::Decoder(const ModelConfig& model, const RankPart& part, const Weights& weights,
                 Backend& backend, Communicator& tp, KvCache& cache, SequenceParallel* sharing)
    : model_(model),
      part_(part),
      weights_(weights),
      backend_(backend),
      tp_(tp),
      sharing_(sharing),
      attention_(model, part, backend, cache, sharing) {
  StageSchedule schedule = StageScheduleOf(model, part.layers.begin, part.layers.end);
  steps_ = std::move(schedule.steps);
  entering_ = std::move(schedule.entering);
  leaving_ = schedule.leaving;
}

Result<std::unique_ptr<Decoder>> Decoder::Create(const ModelConfig& model, const RankPart& part,
                                                 const Weights& weights, Backend& backend,
                                                 Communicator& tp, KvCache& cache,
                                                 SequenceParallel* sharing, int64_t rows_max) {
  std::unique_ptr<Decoder> decoder(new Decoder(model, part, weights, backend, tp, cache, sharing));
  RETURN_IF_ERROR(decoder->Allocate(rows_max));
  return decoder;
}

Status Decoder::Allocate(int64_t rows_max) {
  const DecoderBuffers sizes = DecoderBuffersOf(model_, part_, rows_max, TilesFor(backend_));
  streams_.resize(sizes.streams);
  for (Stream& stream : streams_) {
    ASSIGN_OR_RETURN(stream.residual, tensors_.New(sizes.stream));
    stream.outputs.resize(sizes.outputs);
    for (Tensor& output : stream.outputs) {
      ASSIGN_OR_RETURN(output, tensors_.New(sizes.stream));
    }
  }
  ASSIGN_OR_RETURN(normed_, tensors_.New(sizes.stream));
  ASSIGN_OR_RETURN(second_output_, tensors_.New(sizes.stream));
  ASSIGN_OR_RETURN(attention_scratch_.qkv, tensors_.New(sizes.qkv));
  ASSIGN_OR_RETURN(attention_scratch_.context, tensors_.New(sizes.context));
  ASSIGN_OR_RETURN(mlp_scratch_, tensors_.New(sizes.gate_up));
  if (part_.ff() == 0 || part_.vocab() == 0) {
    const std::vector<float> zeros(static_cast<size_t>(rows_max * model_.d_model));
    ASSIGN_OR_RETURN(zeros_, backend_.Allocate(zeros.size() * sizeof(float)));
    backend_.Upload(zeros.data(), zeros_->data(), zeros.size() * sizeof(float));
    backend_.Synchronize();
  }
  if (!part_.last_stage) return {};
  ASSIGN_OR_RETURN(head_rows_, tensors_.New(sizes.head_stream));
  ASSIGN_OR_RETURN(head_normed_, tensors_.New(sizes.head_stream));
  ASSIGN_OR_RETURN(logits_, tensors_.New(sizes.logits));
  return {};
}

void Decoder::BeginStep(std::span<const StepRows> parts) {
  parts_.clear();
  int64_t rows = 0;
  for (const StepRows& part : parts) {
    const auto count = static_cast<int64_t>(part.ids.size());
    parts_.push_back({static_cast<int>(parts_.size()), {rows, rows + count}, part.rows, {}, {}});
    rows += count;
  }
  stream_ = &streams_[steps_begun_++ % streams_.size()];
  outputs_begun_ = 0;  // a step that repeats finds its outputs where they were
  if (stream_->sent_over != nullptr) stream_->sent_over->Wait(stream_->sent);
  stream_->sent_over = nullptr;
  residual_ = stream_->residual.Rows(0, rows);
}

Tensor Decoder::NextOutput() {
  const std::vector<Tensor>& outputs = stream_->outputs;
  return outputs[outputs_begun_++ % outputs.size()].Rows(0, residual_.rows);
}

void Decoder::Embed(std::span<const StepRows> parts) {
  BeginStep(parts);
  for (size_t i = 0; i < parts.size(); ++i) {
    const Tensor stream = parts_[i].Of(residual_);
    if (weights_.embedding) {
      backend_.Embed(parts[i].ids, *weights_.embedding,
                     static_cast<int32_t>(part_.shard.vocab.begin), model_.embedding_scale, stream);
      FinishFor(backend_, tp_);
    } else {
      Zero(stream);
    }
    parts_[i].embedded = tp_.AllReduceSum(stream.data, stream.rows * stream.cols);
  }
}

void Decoder::Receive(std::span<const StepRows> parts, Communicator& link) {
  BeginStep(parts);
  const size_t bytes = static_cast<size_t>(residual_.rows * residual_.cols) * sizeof(float);
  CommHandle last = link.Recv(residual_.data, bytes, 0);
  for (const SubBlockStep& step : entering_) {
    const Tensor output = NextOutput();
    last = link.Recv(output.data, bytes, 0);
    for (Part& part : parts_) part.pending.push_back({step, output, std::nullopt});
  }
  link.Wait(last);
}

void Decoder::Send(Communicator& link) {
  const size_t bytes = static_cast<size_t>(residual_.rows * residual_.cols) * sizeof(float);
  FinishFor(backend_, link);
  stream_->sent = link.Send(residual_.data, bytes, 1);
  stream_->sent_over = &link;
  for (int i = 0; i < leaving_; ++i) {
    for (const Part& part : parts_) {
      if (part.pending[i].handle) tp_.Wait(*part.pending[i].handle);
    }
    stream_->sent = link.Send(parts_.front().pending[i].output.data, bytes, 1);
  }
  link.Poll();  // nothing waits for them here
}

void Decoder::Forward() {
  RunSteps(0, steps_.size());
  for (Part& part : parts_) MergeDownTo(leaving_, part);
}

double Decoder::Rehearse(std::span<const StepRows> parts, int layer, int layers,
                         const Clock& clock) {
  const auto first_of = [&](int64_t of) {
    const auto at = std::find_if(steps_.begin(), steps_.end(), [&](const SubBlockStep& step) {
      return step.layer >= part_.layers.begin + of;
    });
    return static_cast<size_t>(at - steps_.begin());
  };
  const size_t begin = first_of(layer - 1), middle = first_of(layer),
               end = first_of(layer + layers);
  // When the first part could begin with the next layer: what the others still have to do lies
  // before and behind alike, so that what is timed are layers in the midst of many.
  const auto ready = [&] {
    MergeDownTo(steps_[middle].in_flight_max, parts_.front());
    backend_.Synchronize();
    return clock.NowUs();
  };
  BeginStep(parts);
  const std::vector<float> zeros(static_cast<size_t>(residual_.rows * residual_.cols));
  backend_.Upload(zeros.data(), residual_.data, zeros.size() * sizeof(float));
  backend_.Synchronize();
  RunSteps(begin, middle);
  const int64_t from = ready();
  RunSteps(middle, end);
  const int64_t until = ready();
  for (Part& part : parts_) MergeDownTo(0, part);
  backend_.Synchronize();
  return static_cast<double>(until - from) * 1e-6;
}

void Decoder::RunSteps(size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) {
    const Tensor output = NextOutput();
    for (Part& part : parts_) {
      const Tensor x = MergeAndNorm(steps_[i], part);
      Run(steps_[i], part, x, output);
    }
    AnnounceStep(i + 1);
  }
}

void Decoder::AnnounceStep(size_t next) {
  const Weight* weight = nullptr;
  if (next < steps_.size()) {
    const SubBlockStep& step = steps_[next];
    const LayerWeights& w = weights_.layers[step.layer - part_.layers.begin];
    weight = (step.kind == BlockKind::kMlp ? w.gate_up : w.qkv).get();
  } else if (part_.last_stage) {
    weight = weights_.head.get();
  }
  if (weight != nullptr) backend_.Announce(*weight);
}

Tensor Decoder::MergeAndNorm(const SubBlockStep& step, Part& part) {
  tp_.Wait(part.embedded);
  const auto in_flight = static_cast<size_t>(step.in_flight_max);
  const LayerWeights& w = weights_.layers[step.layer - part_.layers.begin];
  const float* norm = (step.kind == BlockKind::kMlp ? w.mlp_norm : w.attention_norm).get();
  const Tensor stream = part.Of(residual_), x = normed_.Rows(0, stream.rows);
  MergeDownTo(in_flight + 1, part);
  if (part.pending.size() <= in_flight) {
    backend_.RmsNorm(stream, norm, model_.norm_eps, x);
    return x;
  }
  // The last that is due: what the ranks left is added to the stream and that is normed, a row at a
  // time as rows arrive.
  const Pending& last = part.pending.front();
  const bool replaces = last.step.reduce == ReduceKind::kResidual;
  const auto merge = [&](const SumRows& sum) {
    backend_.AddResidualNorm(stream.Rows(sum.begin, sum.end), sum.terms, replaces ? 0.0f : 1.0f,
                             PostNorm(last.step), norm, model_.norm_eps,
                             x.Rows(sum.begin, sum.end));
  };
  if (last.handle) {
    for (SumRows sum = tp_.NextRows(*last.handle); !sum.empty(); sum = tp_.NextRows(*last.handle)) {
      merge(sum);
      FinishFor(backend_, tp_);  // it has read the terms
    }
  } else {
    const float* const own = (replaces ? stream : part.Of(last.output)).data;
    merge({0, stream.rows, {&own, 1}});
  }
  part.pending.pop_front();
  return x;
}

void Decoder::Run(const SubBlockStep& step, Part& part, Tensor x, Tensor output) {
  const Tensor out = part.Of(output), stream = part.Of(residual_);
  RunBlock(step, part, x, out);
  Pending pending{step, output, std::nullopt};
  if (step.reduce == ReduceKind::kResidual) {
    // This rank's term: output + residual / tp. Summed over tp it is the next residual.
    backend_.AddResidual(stream, out, 1.0f / static_cast<float>(tp_.size()), nullptr, 0.0f);
  }
  FinishFor(backend_, tp_);
  if (step.reduce != ReduceKind::kNone && tp_.size() > 1) {
    const Tensor term = step.reduce == ReduceKind::kResidual ? stream : out;
    pending.handle = tp_.AllReduceRows(term.data, term.rows, term.cols);
  }
  part.pending.push_back(pending);
}

void Decoder::RunBlock(const SubBlockStep& step, const Part& part, Tensor x, Tensor out) {
  const int layer = step.layer - static_cast<int>(part_.layers.begin);
  const LayerWeights& w = weights_.layers[layer];
  const auto attend = [&] {
    attention_.Run(layer, w, x, part.rows, part.index, attention_scratch_, out);
  };
  switch (step.kind) {
    case BlockKind::kAttention:
      return attend();
    case BlockKind::kMlp:
      return RunMlpInto(w, x, out);
    case BlockKind::kBoth: {
      const Tensor mlp = second_output_.Rows(0, x.rows);
      attend();
      RunMlpInto(w, x, mlp);
      return backend_.AddResidual(out, mlp, 1.0f, nullptr, 0.0f);
    }
  }
}

void Decoder::RunMlpInto(const LayerWeights& w, Tensor x, Tensor out) {
  if (part_.ff() == 0) return Zero(out);  // more ranks than FFN blocks
  RunMlp(model_, w, x, mlp_scratch_, backend_, out);
}

void Decoder::MergeDownTo(size_t in_flight, Part& part) {
  for (; part.pending.size() > in_flight; part.pending.pop_front()) {
    Merge(part.pending.front(), part);
  }
}

void Decoder::Merge(const Pending& pending, const Part& part) {
  if (pending.handle) tp_.Wait(*pending.handle);
  if (pending.step.reduce == ReduceKind::kResidual) return;  // the sum is the residual
  backend_.AddResidual(part.Of(residual_), part.Of(pending.output), 1.0f, PostNorm(pending.step),
                       model_.norm_eps);
}

const float* Decoder::PostNorm(const SubBlockStep& step) const {
  const bool here = step.layer >= part_.layers.begin;
  const LayerWeights& w = here ? weights_.layers[step.layer - part_.layers.begin] : weights_.before;
  return (step.kind == BlockKind::kAttention ? w.post_attention_norm : w.post_mlp_norm).get();
}

Tensor Decoder::Logits(std::span<const int32_t> rows) {
  const auto count = static_cast<int64_t>(rows.size());
  CHECK(count <= logit_rows_max());
  const Tensor gathered = head_rows_.Rows(0, count);
  const Tensor normed = head_normed_.Rows(0, count);
  const Tensor logits = logits_.Rows(0, count);
  if (sharing_ != nullptr) {
    sharing_->GatherRows(residual_, rows, gathered);
  } else {
    backend_.GatherRows(residual_, rows, gathered);
  }
  backend_.RmsNorm(gathered, weights_.final_norm.get(), model_.norm_eps, normed);
  if (weights_.head) backend_.MatMul(normed, *weights_.head, nullptr, logits);
  return logits;
}

void Decoder::Zero(Tensor tensor) {
  backend_.Copy(zeros_->data(), tensor.data,
                static_cast<size_t>(tensor.rows * tensor.cols) * sizeof(float));
}

}  // namespace echelon
