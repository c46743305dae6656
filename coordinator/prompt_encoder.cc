#include "coordinator/prompt_encoder.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "common/check.h"

namespace echelon {

Result<std::vector<int32_t>> EncodePrompt(const Tokenizer& tokenizer,
                                          const ChatTemplate* chat_template, const EncodeJob& job) {
  std::vector<int32_t> ids;
  std::string field = "prompt";
  if (job.text) {
    ids = tokenizer.Encode(*job.text, true);
  } else {
    field = "messages";
    if (chat_template == nullptr) {
      return Error{ErrorCode::kUnsupported,
                   "this model has no chat template: send a prompt instead of messages", field};
    }
    const auto special = [&](int32_t id) { return id < 0 ? "" : tokenizer.TokenBytes(id); };
    const int32_t end = tokenizer.end_ids().empty() ? -1 : tokenizer.end_ids().front();
    Result<std::vector<TextSpan>> spans =
        chat_template->Render(job.messages, true, special(tokenizer.bos_id()), special(end));
    if (!spans.ok()) {
      Error error = spans.error();
      error.code = ErrorCode::kInvalidArgument;
      error.field = field;
      return error;
    }
    ids = tokenizer.Encode(*spans, false);  // the template writes the special tokens itself
  }
  if (ids.empty()) return InvalidArgument(field + " gives no tokens", field);
  return ids;
}

namespace {

class InlineEncoder final : public PromptEncoder {
 public:
  InlineEncoder(const Tokenizer& tokenizer, std::unique_ptr<ChatTemplate> chat_template)
      : tokenizer_(tokenizer), template_(std::move(chat_template)) {}
  bool Submit(EncodeJob job) override {
    done_.push_back({job.ticket, EncodePrompt(tokenizer_, template_.get(), job)});
    return true;
  }
  void Drop(uint64_t) override {}
  std::vector<EncodedPrompt> Take() override { return std::exchange(done_, {}); }
  int wake_fd() const override { return -1; }

 private:
  const Tokenizer& tokenizer_;
  std::unique_ptr<ChatTemplate> template_;
  std::vector<EncodedPrompt> done_;
};

class ThreadedEncoder final : public PromptEncoder {
 public:
  ThreadedEncoder(const Tokenizer& tokenizer, std::unique_ptr<ChatTemplate> chat_template,
                  size_t jobs_max)
      : tokenizer_(tokenizer),
        template_(std::move(chat_template)),
        jobs_max_(jobs_max),
        wake_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    CHECK_MSG(wake_fd_ >= 0, "eventfd failed");
    thread_ = std::thread([this] { Run(); });
  }
  ~ThreadedEncoder() override {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_one();
    thread_.join();
    close(wake_fd_);
  }

  bool Submit(EncodeJob job) override {
    {
      const std::lock_guard lock(mutex_);
      if (jobs_.size() >= jobs_max_) return false;
      jobs_.push_back(std::move(job));
    }
    changed_.notify_one();
    return true;
  }
  void Drop(uint64_t ticket) override {
    const std::lock_guard lock(mutex_);
    std::erase_if(jobs_, [&](const EncodeJob& job) { return job.ticket == ticket; });
  }
  std::vector<EncodedPrompt> Take() override {
    uint64_t count = 0;
    // Emptied before the results are taken: one that comes in between wakes once more.
    if (read(wake_fd_, &count, sizeof count) < 0) return {};
    const std::lock_guard lock(mutex_);
    return std::exchange(done_, {});
  }
  int wake_fd() const override { return wake_fd_; }

 private:
  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
      if (stop_) return;
      EncodeJob job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      EncodedPrompt result{job.ticket, EncodePrompt(tokenizer_, template_.get(), job)};
      lock.lock();
      done_.push_back(std::move(result));
      const uint64_t one = 1;
      CHECK(write(wake_fd_, &one, sizeof one) == sizeof one);
    }
  }

  const Tokenizer& tokenizer_;
  const std::unique_ptr<ChatTemplate> template_;
  const size_t jobs_max_;
  const int wake_fd_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<EncodeJob> jobs_;       // guarded by mutex_
  std::vector<EncodedPrompt> done_;  // guarded by mutex_
  bool stop_ = false;                // guarded by mutex_
  std::thread thread_;
};

}  // namespace

std::unique_ptr<PromptEncoder> MakeThreadedEncoder(const Tokenizer& tokenizer,
                                                   std::unique_ptr<ChatTemplate> chat_template,
                                                   size_t jobs_max) {
  return std::make_unique<ThreadedEncoder>(tokenizer, std::move(chat_template), jobs_max);
}

std::unique_ptr<PromptEncoder> MakeInlineEncoder(const Tokenizer& tokenizer,
                                                 std::unique_ptr<ChatTemplate> chat_template) {
  return std::make_unique<InlineEncoder>(tokenizer, std::move(chat_template));
}

}  // namespace echelon
