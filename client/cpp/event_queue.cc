#include "client/cpp/event_queue.h"

#include <iterator>
#include <utility>

namespace echelon {

void EventQueue::Push(StreamEvent event) {
  events_.push_back(std::move(event));
  const auto last = std::prev(events_.end());
  of_stream_[last->id].push_back(last);
}

std::optional<StreamEvent> EventQueue::Take(const std::string& id) {
  auto stream = of_stream_.find("");
  if (stream == of_stream_.end()) {
    if (!id.empty()) {
      stream = of_stream_.find(id);
    } else if (!events_.empty()) {
      stream = of_stream_.find(events_.front().id);
    }
  }
  if (stream == of_stream_.end()) return std::nullopt;
  const List::iterator oldest = stream->second.front();
  stream->second.pop_front();
  if (stream->second.empty()) of_stream_.erase(stream);
  std::optional<StreamEvent> event = std::move(*oldest);
  events_.erase(oldest);
  return event;
}

void EventQueue::Drop(const std::string& id) {
  const auto stream = of_stream_.find(id);
  if (stream == of_stream_.end()) return;
  for (const List::iterator event : stream->second) events_.erase(event);
  of_stream_.erase(stream);
}

}  // namespace echelon
