#include "worker/decoder.h"

#include <algorithm>

#include "common/check.h"

namespace echelon {

namespace {
// How many outputs are pending just before step `at` of the whole schedule.
int PendingBefore(const std::vector<SubBlockStep>& all, size_t at) {
  int pending = 0;
  for (size_t i = 0; i < at; ++i) pending = std::min(pending, all[i].in_flight_max) + 1;
  return at < all.size() ? std::min(pending, all[at].in_flight_max) : 0;
}
}  // namespace

Decoder::Decoder(const ModelConfig& model, const RankPart& part, const Weights& weights,
                 Backend& backend, Communicator& tp, KvCache& cache, SequenceParallel* sharing)
    : model_(model),
      part_(part),
      weights_(weights),
      backend_(backend),
      tp_(tp),
      sharing_(sharing),
      attention_(model, part, backend, cache, sharing) {
  const std::vector<SubBlockStep> all = MakeSchedule(model).steps;
  const auto first_of_layer = [&](int64_t layer) {
    return std::find_if(all.begin(), all.end(),
                        [&](const SubBlockStep& s) { return s.layer >= layer; });
  };
  const auto begin = first_of_layer(part.layers.begin);
  const auto end = first_of_layer(part.layers.end);
  steps_.assign(begin, end);
  entering_.assign(begin - PendingBefore(all, begin - all.begin()), begin);
  leaving_ = PendingBefore(all, end - all.begin());
}

Result<std::unique_ptr<Decoder>> Decoder::Create(const ModelConfig& model, const RankPart& part,
                                                 const Weights& weights, Backend& backend,
                                                 Communicator& tp, KvCache& cache,
                                                 SequenceParallel* sharing, int rows_max) {
  std::unique_ptr<Decoder> decoder(new Decoder(model, part, weights, backend, tp, cache, sharing));
  RETURN_IF_ERROR(decoder->Allocate(rows_max));
  return decoder;
}

Status Decoder::Allocate(int rows_max) {
  const int64_t d = model_.d_model;
  const int64_t head_dim = model_.head_dim;
  int in_flight_max = static_cast<int>(entering_.size());
  for (const SubBlockStep& step : steps_) {
    in_flight_max = std::max(in_flight_max, step.in_flight_max);
  }
  streams_.resize(part_.last_stage ? 1 : 2);
  for (Stream& stream : streams_) {
    ASSIGN_OR_RETURN(stream.residual, tensors_.New(rows_max, d));
    stream.outputs.resize(in_flight_max + 1);
    for (Tensor& output : stream.outputs) {
      ASSIGN_OR_RETURN(output, tensors_.New(rows_max, d));
    }
  }
  ASSIGN_OR_RETURN(normed_, tensors_.New(rows_max, d));
  ASSIGN_OR_RETURN(second_output_, tensors_.New(rows_max, d));
  ASSIGN_OR_RETURN(attention_scratch_.qkv,
                   tensors_.New(rows_max, (part_.heads() + 2 * part_.kv_heads()) * head_dim));
  ASSIGN_OR_RETURN(attention_scratch_.context, tensors_.New(rows_max, part_.heads() * head_dim));
  ASSIGN_OR_RETURN(mlp_scratch_,
                   tensors_.New(std::min<int64_t>(rows_max, kMlpRowsMax), 2 * part_.ff()));
  if (part_.ff() == 0 || part_.vocab() == 0) zeros_.assign(rows_max * d, 0.0f);
  if (!part_.last_stage) return {};
  const int64_t row_bytes = std::max<int64_t>(1, part_.vocab()) * int64_t{sizeof(float)};
  const int64_t rows =
      std::clamp<int64_t>(kLogitBytesMax / row_bytes, kLogitRowsMin, kLogitRowsMax);
  ASSIGN_OR_RETURN(head_rows_, tensors_.New(rows, d));
  ASSIGN_OR_RETURN(head_normed_, tensors_.New(rows, d));
  ASSIGN_OR_RETURN(logits_, tensors_.New(rows, part_.vocab()));
  return {};
}

void Decoder::BeginStep(int64_t rows) {
  CHECK(pending_.empty());
  stream_ = &streams_[steps_begun_++ % streams_.size()];
  if (stream_->sent_over != nullptr) stream_->sent_over->Wait(stream_->sent);
  stream_->sent_over = nullptr;
  residual_ = stream_->residual.Rows(0, rows);
}

Tensor Decoder::NextOutput() {
  const std::vector<Tensor>& outputs = stream_->outputs;
  return outputs[outputs_begun_++ % outputs.size()].Rows(0, residual_.rows);
}

void Decoder::Embed(std::span<const int32_t> ids) {
  BeginStep(static_cast<int64_t>(ids.size()));
  if (weights_.embedding) {
    backend_.Embed(ids, *weights_.embedding, static_cast<int32_t>(part_.shard.vocab.begin),
                   model_.embedding_scale, residual_);
    backend_.Synchronize();
  } else {
    Zero(residual_);
  }
  tp_.Wait(tp_.AllReduceSum(residual_.data, residual_.rows * residual_.cols));
}

void Decoder::Receive(int64_t rows, Communicator& link, int from) {
  BeginStep(rows);
  const size_t bytes = static_cast<size_t>(rows * model_.d_model) * sizeof(float);
  link.Wait(link.Recv(residual_.data, bytes, from));
  for (const SubBlockStep& step : entering_) {
    const Tensor output = NextOutput();
    link.Wait(link.Recv(output.data, bytes, from));
    pending_.push_back({step, output, std::nullopt});
  }
}

void Decoder::Send(Communicator& link, int to) {
  const size_t bytes = static_cast<size_t>(residual_.rows * residual_.cols) * sizeof(float);
  backend_.Synchronize();
  stream_->sent = link.Send(residual_.data, bytes, to);
  stream_->sent_over = &link;
  for (; !pending_.empty(); pending_.pop_front()) {
    if (pending_.front().handle) tp_.Wait(*pending_.front().handle);
    stream_->sent = link.Send(pending_.front().output.data, bytes, to);
  }
}

void Decoder::Forward(const BatchRows& rows) {
  for (size_t i = 0; i < steps_.size(); ++i) {
    MergeDownTo(steps_[i].in_flight_max);
    Run(i, rows);
  }
  MergeDownTo(leaving_);
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

void Decoder::Run(size_t at, const BatchRows& rows) {
  const SubBlockStep& step = steps_[at];
  const int64_t count = residual_.rows * residual_.cols;
  const Tensor output = NextOutput();
  RunBlock(step, rows, output);
  AnnounceStep(at + 1);
  Pending pending{step, output, std::nullopt};
  if (step.reduce == ReduceKind::kResidual) {
    // This rank's term: output + residual / tp. Summed over tp it is the next residual.
    backend_.AddResidual(residual_, output, 1.0f / static_cast<float>(tp_.size()), nullptr, 0.0f);
  }
  backend_.Synchronize();
  if (step.reduce == ReduceKind::kOutput) pending.handle = tp_.AllReduceSum(output.data, count);
  if (step.reduce == ReduceKind::kResidual) {
    pending.handle = tp_.AllReduceSum(residual_.data, count);
  }
  pending_.push_back(pending);
}

void Decoder::RunBlock(const SubBlockStep& step, const BatchRows& rows, Tensor out) {
  const int layer = step.layer - static_cast<int>(part_.layers.begin);
  const LayerWeights& w = weights_.layers[layer];
  const Tensor x = normed_.Rows(0, residual_.rows);
  const float eps = model_.norm_eps;
  switch (step.kind) {
    case BlockKind::kAttention:
      backend_.RmsNorm(residual_, w.attention_norm.get(), eps, x);
      attention_.Run(layer, w, x, rows, attention_scratch_, out);
      return;
    case BlockKind::kMlp:
      backend_.RmsNorm(residual_, w.mlp_norm.get(), eps, x);
      RunMlpInto(w, out);
      return;
    case BlockKind::kBoth: {
      const Tensor mlp = second_output_.Rows(0, residual_.rows);
      backend_.RmsNorm(residual_, w.attention_norm.get(), eps, x);
      attention_.Run(layer, w, x, rows, attention_scratch_, out);
      RunMlpInto(w, mlp);
      backend_.AddResidual(out, mlp, 1.0f, nullptr, 0.0f);
      return;
    }
  }
}

void Decoder::RunMlpInto(const LayerWeights& w, Tensor out) {
  if (part_.ff() == 0) return Zero(out);  // more ranks than FFN blocks
  RunMlp(model_, w, normed_.Rows(0, residual_.rows), mlp_scratch_, backend_, out);
}

void Decoder::MergeDownTo(size_t in_flight) {
  for (; pending_.size() > in_flight; pending_.pop_front()) Merge(pending_.front());
}

void Decoder::Merge(const Pending& pending) {
  if (pending.handle) tp_.Wait(*pending.handle);
  if (pending.step.reduce == ReduceKind::kResidual) return;  // the sum is the residual
  backend_.AddResidual(residual_, pending.output, 1.0f, PostNorm(pending.step), model_.norm_eps);
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
  backend_.Synchronize();
  return logits;
}

void Decoder::Zero(Tensor tensor) {
  backend_.Upload(zeros_.data(), tensor.data,
                  static_cast<size_t>(tensor.rows * tensor.cols) * sizeof(float));
}

}  // namespace echelon
